"""What comes in on a socket, and what goes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from clients.generation import Sampling
from gateway.config.limits import Limits
from gateway.errors import ApiError
from gateway.facade.bodies import (
    MAX_STOPS,
    WHOLE,
    Body,
    ModelName,
    StopString,
    Text,
    check_text,
    check_texts,
    parse_json,
)
from gateway.facade.problems import problem
from gateway.facade.validation import fault_error
from gateway.tasks.generation import Ask, End

RequestId = Annotated[str, Field(max_length=128)] | int
_SAMPLING = frozenset(Sampling.__annotations__)


def _true(value: bool) -> bool:
    if not value:
        raise PydanticCustomError("true", "must be true")
    return value


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class GenerateMessage(Body):
    """A request; exactly one of ``prompt`` and ``messages``."""

    type: Literal["generate"] = "generate"
    id: RequestId | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    model: ModelName | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None
    seed: Annotated[int, Field(ge=0, le=2**64 - 1), WHOLE] | None = None
    stop: Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | StopString | None = None
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _one_question(self) -> GenerateMessage:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("one_question", "must have one of prompt and messages")
        return self

    def ask(self, limits: Limits) -> Ask:
        """The question for the service.

        Raises:
            ApiError: A text is too long, or there are too many.
        """
        sampling = cast(Sampling, self.model_dump(include=set(_SAMPLING), exclude_none=True))
        if self.prompt is not None:
            check_text(self.prompt, limits, "prompt")
            return Ask(prompt=self.prompt, sampling=sampling)
        messages = self.messages or []
        check_texts([message.content for message in messages], limits, "messages")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return Ask(messages=turns, sampling=sampling)

    @property
    def field(self) -> str:
        """Where the texts are."""
        return "prompt" if self.prompt is not None else "messages"


class CancelMessage(Body):
    """End the request that runs; one with another id is left alone."""

    type: Literal["cancel"] = "cancel"
    cancel: Annotated[bool, AfterValidator(_true)] = True
    id: RequestId | None = None


class PingMessage(Body):
    """Asks for a pong, for browsers, whose scripts cannot send the protocol's own."""

    type: Literal["ping"] = "ping"
    ping: Annotated[str, Field(max_length=128)] | int | float | None = None


Message = GenerateMessage | CancelMessage | PingMessage


def read_message(data: str | bytes, limits: Limits) -> Message:
    """Read one message.

    Raises:
        ApiError: It is no JSON object, or not one of ours.
    """
    value = parse_json(data, limits)
    kind: type[Message] = GenerateMessage
    if isinstance(value, dict):
        if "cancel" in value or value.get("type") == "cancel":
            kind = CancelMessage
        elif "ping" in value or value.get("type") == "ping":
            kind = PingMessage
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise fault_error(faults[0], value, len(faults) - 1) from None


def id_of(data: str | bytes, limits: Limits) -> RequestId | None:
    """The id of a message that was refused, where one can be told."""
    try:
        value = parse_json(data, limits)
    except ApiError:
        return None
    name = value.get("id") if isinstance(value, dict) else None
    return name[:128] if isinstance(name, str) else name if type(name) is int else None


def token_frame(name: RequestId, text: str, token_ids: tuple[int, ...], index: int) -> dict[str, Any]:
    """New text.

    Args:
        name: The request's id.
        text: May be empty while half a character is held back.
        token_ids: Its tokens.
        index: Of the first of them in the answer, from 0.
    """
    return {"id": name, "token": text, "token_ids": token_ids, "index": index, "is_final": False}


def final_frame(
    name: RequestId,
    model: str,
    end: End | None,
    *,
    tokens: int,
    latency_s: float,
    first_s: float | None,
) -> dict[str, Any]:
    """The end of an answer.

    Args:
        name: The request's id.
        model: Which answered.
        end: None where the caller cancelled.
        tokens: Generated until then.
        latency_s: Seconds from the request to now.
        first_s: Seconds from the request to the first token.
    """
    prompt = end.prompt_tokens if end else None
    return {
        "id": name,
        "token": "",
        "is_final": True,
        "finish_reason": end.finish_reason if end else "cancelled",
        "model": model,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": None if prompt is None else prompt + tokens,
        },
        "latency_ms": round(latency_s * 1000, 3),
        "ttft_ms": None if first_s is None else round(first_s * 1000, 3),
        "tokens_per_second": round(tokens / latency_s, 2),
    }


def error_frame(name: RequestId | None, error: ApiError) -> Mapping[str, Any]:
    """A request that failed; ``name`` is None where the message has no id that can be read."""
    return {"id": name, "error": problem(error), "is_final": True}
