"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from fastapi import APIRouter
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ApiError
from gateway.facade.bodies import StrictRoute, check_texts, json_response
from gateway.facade.cancelling import unless_gone
from gateway.facade.openai.answers import CompletionAnswer, streams_too
from gateway.facade.openai.choices import Token, streamed, tokens_of, whole
from gateway.facade.openai.fields import Refusal, TextOrTexts
from gateway.facade.openai.frame import frame, usage
from gateway.facade.openai.sampling import LOGIT_BIAS, GenerationBody
from gateway.facade.openai.sse import event, event_stream
from gateway.facade.state import call_of, facade_of
from gateway.tasks.generation import Ask, End

router = APIRouter(route_class=StrictRoute)

MAX_ASKS = 32
"""Prompts times answers to each; every one is a request of its own to the model."""


class CompletionBody(GenerationBody):
    """Texts to go on from."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "smollm2", "prompt": "The capital of France is", "max_tokens": 8}]
        }
    )

    refused: ClassVar = {
        "logit_bias": LOGIT_BIAS,
        "suffix": Refusal("the models here do not fill gaps", ("",)),
    }

    prompt: TextOrTexts = Field(description="a text, or a list of them; token arrays are refused")
    max_tokens: int | None = Field(default=16, ge=1, le=(1 << 31) - 1)
    echo: bool | None = Field(default=False, description="the answer begins with the prompt")
    best_of: int | None = Field(default=None, ge=1, description="must be n, as answers are not ranked")
    logprobs: int | None = Field(
        default=None, ge=0, le=0, description="0: log probability of each token; others are not known"
    )

    @model_validator(mode="after")
    def _fits(self) -> CompletionBody:
        if self.best_of not in (None, self.choices):
            raise PydanticCustomError(
                "unsupported", "must not ask for best_of other than n: answers are not ranked here"
            )
        if self.echo and self.logprobs is not None:
            raise PydanticCustomError(
                "unsupported", "must not ask for echo with logprobs: those of a prompt are not known"
            )
        return self

    def asks(self) -> list[Ask]:
        """One for each of ``n`` answers to each prompt."""
        return [
            Ask(
                prompt=prompt,
                sampling=self.sampling(
                    choice,
                    max_tokens=16 if self.max_tokens is None else self.max_tokens,
                    log_probs=self.logprobs is not None,
                    schema=None,
                ),
            )
            for prompt in self.prompt
            for choice in range(self.choices)
        ]


@router.post("/v1/completions", summary="Go on from a text", responses=streams_too(CompletionAnswer))
async def completions(request: Request, body: CompletionBody) -> Response:
    """As OpenAI's endpoint of that name; with ``stream`` the answer comes as server-sent events."""
    facade, call = facade_of(request), call_of(request, streams=bool(body.stream))
    check_texts(body.prompt, facade.config.limits, "prompt")
    asks = body.asks()
    if len(asks) > MAX_ASKS:
        raise ApiError(
            "invalid_value",
            f"{len(asks)} answers (prompts times n); {MAX_ASKS} are allowed in one request",
            field="prompt",
            mend="send fewer prompts",
        )
    model = await facade.models.find(body.model, "generation")
    start = frame("cmpl", "text_completion", model)
    if body.stream:
        parts = streamed(facade, call, model.name, asks, "prompt")
        return await event_stream(request, call, _chunks(body, asks, start, parts))
    found = await unless_gone(request.receive, whole(facade, call, model.name, asks, "prompt"))
    choices = [
        {
            "index": place,
            "text": f"{ask.prompt}{choice.text}" if body.echo else choice.text,
            "logprobs": None if body.logprobs is None else _logprobs(choice.tokens, 0)[0],
            "finish_reason": choice.end.finish_reason,
        }
        for place, (ask, choice) in enumerate(zip(asks, found, strict=True))
    ]
    ends = {place: choice.end for place, choice in enumerate(found)}
    return json_response(start | {"choices": choices, "usage": usage(ends, body.choices)}, call)


async def _chunks(
    body: CompletionBody, asks: Sequence[Ask], start: dict[str, Any], parts: AsyncGenerator[Any, None]
) -> AsyncGenerator[bytes, None]:
    """Events: one for each new text, the last of a choice with the reason of its end."""
    if body.includes_usage:
        start["usage"] = None
    begun: dict[int, int] = {}  # characters sent, by place
    ends: dict[int, End] = {}
    async with aclosing(parts):
        async for place, delta in parts:
            text, logprobs, reason = delta.text, None, None
            if place not in begun:
                begun[place] = 0
                text = f"{asks[place].prompt}{text}" if body.echo else text
            if body.logprobs is not None:
                logprobs, begun[place] = _logprobs(tokens_of(delta), begun[place])
            if delta.end is not None:
                ends[place] = delta.end
                reason = delta.end.finish_reason
            if text or reason or (logprobs and logprobs["tokens"]):
                choice = {"index": place, "text": text, "logprobs": logprobs, "finish_reason": reason}
                yield event(start | {"choices": [choice]})
    if body.includes_usage:
        yield event(start | {"choices": [], "usage": usage(ends, body.choices)})


def _logprobs(tokens: Sequence[Token], offset: int) -> tuple[dict[str, Any], int]:
    """OpenAI's older form, and the offset after these tokens.

    Args:
        tokens: With the text of each, where it is known.
        offset: Of the first of them, in characters.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    shown = {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.log_prob for token in tokens],
        "top_logprobs": None,
        "text_offset": offsets,
        "token_ids": [token.id for token in tokens],
    }
    return shown, offset
