"""Rules for the fields of OpenAI's API: each is honoured, harmless and ignored, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.errors import ApiError
from gateway.facade.bodies import Body, Text, Texts


class Refusal(NamedTuple):
    """A field that would change the answer, and is not offered.

    Attributes:
        why: In a few words.
        harmless: Values that ask for nothing; they are accepted, as null is.
    """

    why: str
    harmless: tuple[Any, ...] = ()


class OpenAIBody(Body):
    """Base of the bodies: refuses by name what it does not honour."""

    refused: ClassVar[Mapping[str, Refusal]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not (data.keys() & cls.refused.keys()):
            return data
        for name, refusal in cls.refused.items():
            value = data.get(name)
            if value is not None and value not in refusal.harmless:
                raise ApiError("unsupported", refusal.why, field=name, mend=f"leave {name} out")
        return {name: value for name, value in data.items() if name not in cls.refused}


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _list_of_texts(value: Any) -> Any:
    """One text or several; token ids are told apart, for their error."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise PydanticCustomError("unsupported", "holds token ids, which are not read; send text")
    return _list(value)


_Texts = Annotated[list[Text], Field(min_length=1)]  # Texts for the schema, as FailFast cannot be in a union
TextOrTexts = Annotated[Texts, BeforeValidator(_list_of_texts, json_schema_input_type=Text | _Texts)]
"""A string, or a list of strings."""

_Stop = Annotated[str, Field(min_length=1, max_length=512)]
_StopList = Annotated[list[_Stop], Field(max_length=16)]
Stops = Annotated[_StopList | None, BeforeValidator(_list, json_schema_input_type=_Stop | _StopList | None)]
"""Strings at which an answer ends: one, or a list of up to 16."""
