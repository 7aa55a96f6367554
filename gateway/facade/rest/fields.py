"""Fields that the bodies and answers of all tasks share."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def model_field(example: str) -> Any:
    """The field ``model`` of a body."""
    return Field(
        default=None,
        description="which model; may be left out where one alone is for this",
        examples=[example],
    )


def latency_field() -> Any:
    """The field ``latency_ms`` of an answer."""
    return Field(description="in the gateway, from the request's body to its answer")


def tokens_field(example: int) -> Any:
    """The field ``tokens`` of an answer."""
    return Field(
        description="of the texts as the model read them; 0 where it cannot tell", examples=[example]
    )
