"""A conversation as OpenAI writes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway.facade.bodies import Body

MAX_MESSAGES = 1024  # what the models take


class TextPart(Body):
    """Text within a list of parts; the models here read no other kind."""

    type: Literal["text"]
    text: str


def _joined(value: Any) -> Any:
    """Text parts become one text, by newlines as vLLM joins them."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise PydanticCustomError(
                "unsupported", "has a part of type {kind}; only text is read", {"kind": str(kind)[:40]}
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _known_role(value: Any) -> Any:
    if value in ("tool", "function"):
        raise PydanticCustomError("unsupported", "must not be of a tool: the models here call none")
    return value


def _nothing(value: Any) -> Any:
    if value not in (None, []):
        raise PydanticCustomError("unsupported", "must be left out: the models here read and write text only")
    return value


Nothing = Annotated[Annotated[list[Any], Field(max_length=0)] | None, BeforeValidator(_nothing)]
"""A member that the official client repeats from an answer, where it asks for nothing."""


class Message(Body):
    """One turn; ``developer`` means ``system``."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_known_role)]
    content: Annotated[
        str,
        BeforeValidator(_joined, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)]),
    ]
    name: str | None = Field(default=None, description="given to the chat template")
    refusal: Nothing = None
    annotations: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: Nothing = None

    def for_template(self) -> dict[str, str]:
        """As the models' chat templates take it."""
        role = "system" if self.role == "developer" else self.role
        turn = {"role": role, "content": self.content}
        return turn if self.name is None else turn | {"name": self.name}
