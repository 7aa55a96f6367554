"""``POST /predict`` and ``/predict/batch``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from clients.generation import Sampling
from gateway.errors import ApiError
from gateway.facade.bodies import (
    MAX_STOPS,
    WHOLE,
    Body,
    ModelName,
    StopString,
    StrictRoute,
    Text,
    Texts,
    check_text,
    check_texts,
    json_response,
    latency_ms,
)
from gateway.facade.cancelling import unless_gone
from gateway.facade.problems import problem
from gateway.facade.rest.fields import latency_field, model_field
from gateway.facade.state import Facade, call_of, facade_of
from gateway.tasks.call import Call
from gateway.tasks.generation import Answer, Ask

router = APIRouter(tags=["generation"], route_class=StrictRoute)

AT_ONCE = 32
"""Texts of one batch that are asked for at the same time, so that it does not fill the servers alone."""

_SAMPLING = {"temperature", "top_p", "top_k", "seed", "stop"}


class PredictFields(Body):
    """How to generate."""

    max_length: Annotated[int, Field(ge=1, le=2048), WHOLE] | None = Field(
        default=None,
        description="tokens to generate at most; default: the model's",
        examples=[64],
    )
    temperature: float | None = Field(
        default=None,
        ge=0.1,
        le=2.0,
        description="divides the logits; left out: the likeliest token each time",
        examples=[0.7],
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="choose from the likeliest tokens whose probabilities reach this",
        examples=[0.9],
    )
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = Field(
        default=None, description="choose from so many tokens; 0: all", examples=[40]
    )
    seed: Annotated[int, Field(ge=0, le=2**53 - 1), WHOLE] | None = Field(
        default=None, description="the same seed gives the same output", examples=[7]
    )
    stop: list[StopString] | None = Field(
        default=None,
        max_length=MAX_STOPS,
        description="strings at which the output ends",
        examples=[["\n\n"]],
    )
    model: ModelName | None = model_field("smollm2")

    def sampling(self) -> Sampling:
        """The same, as the model calls it; what was left out is left to the model."""
        given = self.model_dump(include=_SAMPLING, exclude_none=True)
        if self.max_length is not None:
            given["max_tokens"] = self.max_length
        return cast(Sampling, given)


class PredictBody(PredictFields):
    """A text to go on from."""

    text: Text = Field(description="UTF-8", examples=["The capital of France is"])


class PredictBatchBody(PredictFields):
    """Texts to go on from, each by itself."""

    texts: Texts = Field(
        description="each at least a character", examples=[["The sun is", "The capital of France is"]]
    )


class Predicted(BaseModel):
    """A text that was generated."""

    output: str = Field(examples=[" Paris."])
    tokens_generated: int = Field(examples=[3])
    prompt_tokens: int = Field(examples=[5])
    finish_reason: str = Field(
        description="`stop`: the model or a stop string ended it; `length`: max_length or the context did",
        examples=["stop"],
    )


class PredictAnswer(Predicted):
    """The output."""

    model: str = Field(examples=["smollm2"])
    latency_ms: float = latency_field()


class PredictFault(BaseModel):
    """Why a text of a batch has no output."""

    error: dict[str, Any] = Field(description="a problem, as a request for this text alone would get it")


class PredictBatchAnswer(BaseModel):
    """An output, or an error, for each text in its place."""

    results: list[Predicted | PredictFault]
    model: str = Field(examples=["smollm2"])
    latency_ms: float = latency_field()


@router.post("/predict", response_model=PredictAnswer, summary="What follows a text")
async def predict(request: Request, body: PredictBody) -> Response:
    """Scope `generate`, and the model's. Closing the connection ends it on the server too."""
    facade, call = facade_of(request), call_of(request)
    check_text(body.text, facade.config.limits)
    ask = Ask(prompt=body.text, sampling=body.sampling())
    answer = await unless_gone(request.receive, facade.generation.generate(call, body.model, ask))
    told = {**_told(answer), "model": answer.model, "latency_ms": latency_ms(request)}
    return json_response(told, call)


@router.post("/predict/batch", response_model=PredictBatchAnswer, summary="What follows each of some texts")
async def predict_batch(request: Request, body: PredictBatchBody) -> Response:
    """Scope `generate`, and the model's. Each text is a request to the limits.

    Where no text has an output, the answer is the problem of the first.
    """
    facade, call = facade_of(request), call_of(request)
    check_texts(body.texts, facade.config.limits)
    asks = [Ask(prompt=text, sampling=body.sampling()) for text in body.texts]
    answers = await unless_gone(request.receive, _generate_all(facade, call, body.model, asks))
    models = [answer.model for answer in answers if isinstance(answer, Answer)]
    if not models:
        assert isinstance(answers[0], ApiError)
        raise answers[0]
    results = [
        {"error": problem(answer)} if isinstance(answer, ApiError) else _told(answer) for answer in answers
    ]
    return json_response({"results": results, "model": models[0], "latency_ms": latency_ms(request)}, call)


async def _generate_all(
    facade: Facade, call: Call, model: str | None, asks: Sequence[Ask]
) -> list[Answer | ApiError]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, ask: Ask) -> Answer | ApiError:
        async with places:
            try:
                return await facade.generation.generate(call, model, ask, f"texts.{index}")
            except ApiError as error:
                return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index, ask)) for index, ask in enumerate(asks)]
    return [task.result() for task in tasks]


def _told(answer: Answer) -> dict[str, Any]:
    return {
        "output": answer.text,
        "tokens_generated": answer.end.completion_tokens,
        "prompt_tokens": answer.end.prompt_tokens,
        "finish_reason": answer.end.finish_reason,
    }
