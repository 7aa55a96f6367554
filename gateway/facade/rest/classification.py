"""``POST /classify`` and ``/classify/batch``."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.facade.bodies import (
    Body,
    ModelName,
    StrictRoute,
    Text,
    Texts,
    check_text,
    check_texts,
    json_response,
    latency_ms,
)
from gateway.facade.rest.fields import latency_field, model_field, tokens_field
from gateway.facade.state import call_of, facade_of

router = APIRouter(tags=["classification"], route_class=StrictRoute)

_MODEL = model_field("spam")


class ClassifyBody(Body):
    """A text to classify."""

    text: Text = Field(description="UTF-8", examples=["you have won a prize"])
    model: ModelName | None = _MODEL


class ClassifyBatchBody(Body):
    """Texts to classify."""

    texts: Texts = Field(
        description="each at least a character", examples=[["you have won a prize", "see you on Monday"]]
    )
    model: ModelName | None = _MODEL


class Labelled(BaseModel):
    """What a text was found to be."""

    label: str = Field(description="the likeliest", examples=["spam"])
    score: float = Field(description="its score, 0 to 1", examples=[0.98])
    scores: dict[str, float] = Field(description="of every label", examples=[{"ham": 0.02, "spam": 0.98}])


class ClassifyFacts(BaseModel):
    """What comes with labels."""

    tokens: int = tokens_field(6)
    model: str = Field(examples=["spam"])
    latency_ms: float = latency_field()


class ClassifyAnswer(Labelled, ClassifyFacts):
    """A label."""


class ClassifyBatchAnswer(ClassifyFacts):
    """Labels, in the order of the texts."""

    results: list[Labelled]


@router.post("/classify", response_model=ClassifyAnswer, summary="The label of a text")
async def classify(request: Request, body: ClassifyBody) -> Response:
    """Scope `classify`, and the model's."""
    facade, call = facade_of(request), call_of(request)
    check_text(body.text, facade.config.limits)
    rows, (found,) = await facade.classification.classify(call, body.model, [body.text])
    answer = {
        "label": found.label,
        "score": found.score,
        "scores": found.scores,
        "tokens": rows.tokens,
        "model": rows.model.name,
        "latency_ms": latency_ms(request),
    }
    return json_response(answer, call)


@router.post("/classify/batch", response_model=ClassifyBatchAnswer, summary="The labels of texts")
async def classify_batch(request: Request, body: ClassifyBatchBody) -> Response:
    """Scope `classify`, and the model's. The whole batch is one request to the limits."""
    facade, call = facade_of(request), call_of(request)
    check_texts(body.texts, facade.config.limits)
    rows, labels = await facade.classification.classify(call, body.model, body.texts, "texts")
    answer = {
        "results": labels,
        "tokens": rows.tokens,
        "model": rows.model.name,
        "latency_ms": latency_ms(request),
    }
    return json_response(answer, call)
