"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from fastapi import APIRouter
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from gateway.facade.bodies import StrictRoute, check_texts, json_response
from gateway.facade.cancelling import unless_gone
from gateway.facade.openai.answers import ChatAnswer, streams_too
from gateway.facade.openai.choices import Token, streamed, tokens_of, whole
from gateway.facade.openai.fields import Refusal
from gateway.facade.openai.frame import frame, usage
from gateway.facade.openai.messages import MAX_MESSAGES, Message
from gateway.facade.openai.sampling import LOGIT_BIAS, GenerationBody, ResponseFormat
from gateway.facade.openai.sse import event, event_stream
from gateway.facade.state import call_of, facade_of
from gateway.tasks.generation import Ask, End

router = APIRouter(route_class=StrictRoute)

_NO_TOOLS = "the models here call no tools"
_TEXT_ONLY = "the models here write text only"


class ChatBody(GenerationBody):
    """A conversation to answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "smollm2",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                    "max_tokens": 40,
                    "temperature": 0,
                }
            ]
        }
    )

    refused: ClassVar = {
        "audio": Refusal(_TEXT_ONLY),
        "function_call": Refusal(_NO_TOOLS, ("none", "auto")),
        "functions": Refusal(_NO_TOOLS, ([],)),
        "logit_bias": LOGIT_BIAS,
        "modalities": Refusal(_TEXT_ONLY, (["text"],)),
        "moderation": Refusal("no moderation is offered here"),
        "prediction": Refusal("no predicted output is taken"),
        "reasoning_effort": Refusal("the models here do not reason apart", ("none",)),
        "service_tier": Refusal("there is one tier here", ("auto", "default")),
        "store": Refusal("nothing is stored here", (False,)),
        "tool_choice": Refusal(_NO_TOOLS, ("none", "auto")),
        "tools": Refusal(_NO_TOOLS, ([],)),
        "top_logprobs": Refusal("only the chosen tokens' own log probabilities are known", (0,)),
        "verbosity": Refusal("the models here have no such setting", ("medium",)),
        "web_search_options": Refusal("no web search is offered here"),
    }

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=(1 << 31) - 1)
    logprobs: bool | None = Field(default=False, description="log probability of each token, and its id")
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = Field(default=None, description="accepted, not used")
    parallel_tool_calls: bool | None = Field(default=None, description="accepted, not used")
    prompt_cache_key: str | None = Field(default=None, description="accepted, not used")
    prompt_cache_options: dict[str, Any] | None = Field(default=None, description="accepted, not used")
    prompt_cache_retention: str | None = Field(default=None, description="accepted, not used")
    safety_identifier: str | None = Field(default=None, description="accepted, not used")

    @model_validator(mode="after")
    def _one_length(self) -> ChatBody:
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError(
                "invalid_value", "must not give both max_tokens and max_completion_tokens: they mean the same"
            )
        return self

    def asks(self) -> list[Ask]:
        """One for each of ``n`` answers."""
        messages = [message.for_template() for message in self.messages]
        schema = self.response_format.schema_text if self.response_format else None
        return [
            Ask(
                messages=messages,
                sampling=self.sampling(
                    choice,
                    max_tokens=self.max_completion_tokens or self.max_tokens,
                    log_probs=bool(self.logprobs),
                    schema=schema,
                ),
            )
            for choice in range(self.choices)
        ]


@router.post("/v1/chat/completions", summary="Answer a conversation", responses=streams_too(ChatAnswer))
async def chat(request: Request, body: ChatBody) -> Response:
    """As OpenAI's endpoint of that name; with ``stream`` the answer comes as server-sent events."""
    facade, call = facade_of(request), call_of(request, streams=bool(body.stream))
    check_texts([message.content for message in body.messages], facade.config.limits, "messages")
    model = await facade.models.find(body.model, "generation")
    asks = body.asks()
    if body.stream:
        parts = streamed(facade, call, model.name, asks, "messages")
        start = frame("chatcmpl", "chat.completion.chunk", model)
        return await event_stream(request, call, _chunks(body, start, parts))
    found = await unless_gone(request.receive, whole(facade, call, model.name, asks, "messages"))
    choices: list[dict[str, Any]] = [
        {
            "index": place,
            "message": {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []},
            "logprobs": _logprobs(choice.tokens) if body.logprobs else None,
            "finish_reason": choice.end.finish_reason,
        }
        for place, choice in enumerate(found)
    ]
    ends = {place: choice.end for place, choice in enumerate(found)}
    return json_response(
        frame("chatcmpl", "chat.completion", model)
        | {"choices": choices, "usage": usage(ends, body.choices)},
        call,
    )


async def _chunks(
    body: ChatBody, start: dict[str, Any], parts: AsyncGenerator[Any, None]
) -> AsyncGenerator[bytes, None]:
    """Events: one with the role, one for each new text, one with the reason of the end; for each choice."""
    if body.includes_usage:
        start["usage"] = None

    def chunk(place: int, delta: dict[str, str], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event(start | {"choices": [choice]})

    begun: set[int] = set()
    ends: dict[int, End] = {}
    async with aclosing(parts):
        async for place, delta in parts:
            data = b""
            if place not in begun:
                begun.add(place)
                data = chunk(place, {"role": "assistant", "content": ""})
            logprobs = _logprobs(tokens_of(delta)) if body.logprobs else None
            if delta.text or (body.logprobs and delta.token_ids):
                data += chunk(place, {"content": delta.text}, logprobs)
            if delta.end is not None:
                ends[place] = delta.end
                data += chunk(place, {}, None, delta.end.finish_reason)
            if data:
                yield data
    if body.includes_usage:
        yield event(start | {"choices": [], "usage": usage(ends, body.choices)})


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """``bytes`` is null: a token may be a part of a character, of which nothing is known here."""
    content: list[dict[str, Any]] = [
        {
            "token": token.text,
            "logprob": token.log_prob,
            "bytes": None,
            "top_logprobs": [],
            "token_id": token.id,
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}
