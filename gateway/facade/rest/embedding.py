"""``POST /embed`` and ``/embed/batch``."""

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

router = APIRouter(tags=["embedding"], route_class=StrictRoute)

_MODEL = model_field("minilm")


class EmbedBody(Body):
    """A text to embed."""

    text: Text = Field(description="UTF-8", examples=["a cat sits on the mat"])
    model: ModelName | None = _MODEL


class EmbedBatchBody(Body):
    """Texts to embed."""

    texts: Texts = Field(description="each at least a character", examples=[["a cat", "a dog"]])
    model: ModelName | None = _MODEL


class EmbedFacts(BaseModel):
    """What comes with vectors."""

    dimensions: int = Field(description="numbers in a vector", examples=[2])
    tokens: int = tokens_field(9)
    model: str = Field(examples=["minilm"])
    latency_ms: float = latency_field()


class EmbedAnswer(EmbedFacts):
    """A vector."""

    embedding: list[float] = Field(examples=[[0.6, 0.8]])


class EmbedBatchAnswer(EmbedFacts):
    """Vectors, in the order of the texts."""

    embeddings: list[list[float]] = Field(examples=[[[0.6, 0.8], [0.8, 0.6]]])


@router.post("/embed", response_model=EmbedAnswer, summary="The vector of a text")
async def embed(request: Request, body: EmbedBody) -> Response:
    """Scope `embed`, and the model's."""
    facade, call = facade_of(request), call_of(request)
    check_text(body.text, facade.config.limits)
    rows, vectors = await facade.embedding.embed(call, body.model, [body.text])
    answer = {
        "embedding": vectors[0],
        "dimensions": vectors.shape[1],
        "tokens": rows.tokens,
        "model": rows.model.name,
        "latency_ms": latency_ms(request),
    }
    return json_response(answer, call)


@router.post("/embed/batch", response_model=EmbedBatchAnswer, summary="The vectors of texts")
async def embed_batch(request: Request, body: EmbedBatchBody) -> Response:
    """Scope `embed`, and the model's. The whole batch is one request to the limits."""
    facade, call = facade_of(request), call_of(request)
    check_texts(body.texts, facade.config.limits)
    rows, vectors = await facade.embedding.embed(call, body.model, body.texts, "texts")
    answer = {
        "embeddings": vectors,
        "dimensions": vectors.shape[1],
        "tokens": rows.tokens,
        "model": rows.model.name,
        "latency_ms": latency_ms(request),
    }
    return json_response(answer, call)
