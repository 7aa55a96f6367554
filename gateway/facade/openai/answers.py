"""What the answers look like, for the OpenAPI document alone; they are written as plain dicts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class EmbeddingUsage(BaseModel):
    """Tokens; 0 where the model cannot count them."""

    prompt_tokens: int
    total_tokens: int


class Usage(EmbeddingUsage):
    """Tokens of a prompt, which counts once, and of all answers."""

    completion_tokens: int


class EmbeddingItem(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Any]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class CompletionChoice(BaseModel):
    """One answer."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class _Answer(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class ChatAnswer(_Answer):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionAnswer(_Answer):
    """Answers to prompts."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class ModelAnswer(BaseModel):
    """A model; the members from ``task`` on are ours."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    version: str
    dimensions: int | None
    labels: list[str]


class ModelList(BaseModel):
    """Models that the caller may use."""

    object: Literal["list"]
    data: list[ModelAnswer]


def streams_too(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route whose answer is JSON, or with ``stream`` server-sent events."""
    events = {"schema": {"type": "string"}, "example": 'data: {"choices": []}\n\ndata: [DONE]\n\n'}
    return {200: {"model": model, "content": {"text/event-stream": events}}}
