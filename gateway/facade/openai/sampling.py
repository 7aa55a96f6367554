"""What chat and completions share of a request: how to generate."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import orjson
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from clients.generation import Sampling
from gateway.facade.bodies import Body, ModelName
from gateway.facade.openai.fields import OpenAIBody, Refusal, Stops

_INT32 = (1 << 31) - 1
_UINT64 = (1 << 64) - 1
MAX_CHOICES = 8
"""Answers to one prompt; each is a request of its own to the model."""

LOGIT_BIAS = Refusal("no model here takes biases", ({},))


class StreamOptions(Body):
    """About a streamed answer."""

    include_usage: bool | None = Field(default=None, description="a last chunk tells the tokens used")
    include_obfuscation: bool | None = Field(default=None, description="accepted, not used")


class JsonSchema(Body):
    """A schema that the answer fits; ``name``, ``description`` and ``strict`` change nothing."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(default=None, description="always kept to, whatever is said here")


class ResponseFormat(Body):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "invalid_value", "must have json_schema with the type json_schema, and with no other"
            )
        return self

    @property
    def schema_text(self) -> str | None:
        """JSON schema for the model; None for text."""
        if self.json_schema is not None:
            return orjson.dumps(self.json_schema.schema_).decode()
        return '{"type": "object"}' if self.type == "json_object" else None


class GenerationBody(OpenAIBody):
    """Fields of chat and completions; after ``user`` those that the models here have besides."""

    refused: ClassVar = {"logit_bias": LOGIT_BIAS}

    model: ModelName
    max_tokens: int | None = Field(default=None, ge=1, le=_INT32)
    temperature: float | None = Field(default=1, ge=0, le=2, description="0: the likeliest token each time")
    top_p: float | None = Field(default=1, ge=0, le=1)
    n: int | None = Field(default=1, ge=1, le=MAX_CHOICES, description="answers to each prompt")
    stop: Stops = None
    seed: int | None = Field(default=None, ge=-(1 << 63), le=_UINT64)
    presence_penalty: float | None = Field(default=0, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=0, ge=-2, le=2)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="accepted, not used")
    top_k: int | None = Field(default=None, ge=-1, le=_INT32)
    min_tokens: int | None = Field(default=None, ge=0, le=_INT32)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("invalid_value", "must not have stream_options without stream: true")
        return self

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(
        self, choice: int, *, max_tokens: int | None, log_probs: bool, schema: str | None
    ) -> Sampling:
        """Inputs of the model for one of ``n`` answers, whose seeds differ.

        Args:
            choice: Which, from 0.
            max_tokens: None leaves it to the model.
            log_probs: Give those of the tokens.
            schema: JSON schema of the answer, as text.
        """
        # top_p 0 leaves the likeliest token alone; the models want it above 0.
        greedy = self.top_p == 0
        values: dict[str, Any] = {
            "temperature": 0.0 if greedy else 1.0 if self.temperature is None else self.temperature,
            "top_p": None if greedy else self.top_p,
            "max_tokens": max_tokens,
            "min_tokens": self.min_tokens,
            "top_k": self.top_k,
            "seed": None if self.seed is None else (self.seed + choice) & _UINT64,
            "stop": self.stop,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "ignore_eos": self.ignore_eos,
            "return_log_probs": log_probs or None,
            "json_schema": schema,
        }
        return cast(Sampling, {name: value for name, value in values.items() if value is not None})
