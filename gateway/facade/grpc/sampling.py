"""Generation as the messages have it: checked by the rules of REST, in the words of the services."""

from __future__ import annotations

import math
from typing import Any, cast

from clients.generation import Sampling as Wanted
from gateway.config.limits import Limits
from gateway.errors import ApiError
from gateway.facade.bodies import MAX_STOP_LENGTH, MAX_STOPS, check_text, parse_json
from gateway.proto.model_service_pb2 import GenerationInput, Sampling
from gateway.tasks.generation import Ask

_INT32 = 2**31 - 1
# Least and most; `above` where the least itself is not allowed.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "max_tokens": (1, 2048, False),
    "min_tokens": (0, 2048, False),
    "temperature": (0.1, 2, False),
    "top_p": (0, 1, True),
    "top_k": (0, _INT32, False),
    "repetition_penalty": (0, 10, True),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
}
_MAX_NAME_LENGTH = 128


def ask_of(message: GenerationInput, limits: Limits, field: str) -> Ask:
    """Read and check what to generate.

    Args:
        message: As the caller sent it.
        limits: Bounds of texts.
        field: Path of the message.

    Raises:
        ApiError: ``missing_field`` or ``invalid_value``.
    """
    sampling = _sampling(message.sampling, limits, f"{field}.sampling")
    source = message.WhichOneof("source")
    if source == "prompt":
        check_present(message.prompt, limits, f"{field}.prompt")
        return Ask(prompt=message.prompt, sampling=sampling)
    if source is None or not message.conversation.messages:
        raise ApiError(
            "missing_field",
            "there is nothing to answer",
            field=field if source is None else f"{field}.conversation.messages",
            mend="give a prompt, or a conversation of one message at least",
        )
    turns = message.conversation.messages
    if len(turns) > limits.max_texts:
        raise ApiError(
            "invalid_value",
            f"{len(turns)} messages, and {limits.max_texts} are allowed",
            field=f"{field}.conversation.messages",
            mend="leave out the oldest",
        )
    for index, turn in enumerate(turns):
        place = f"{field}.conversation.messages.{index}"
        check_present(turn.role, limits, f"{place}.role")
        check_text(turn.content, limits, f"{place}.content")
    return Ask(messages=[{"role": turn.role, "content": turn.content} for turn in turns], sampling=sampling)


def check_name(name: str, field: str) -> None:
    """Hold the name of a model or adapter to its bound.

    Raises:
        ApiError: ``invalid_value``.
    """
    if len(name) > _MAX_NAME_LENGTH:
        raise ApiError(
            "invalid_value",
            f"a name of {len(name)} characters; {_MAX_NAME_LENGTH} are allowed",
            field=field,
            mend="GET /v1/models lists what is served",
        )


def check_present(text: str, limits: Limits, field: str) -> None:
    """Demand a text, not too long; proto3 cannot tell an empty one from none.

    Raises:
        ApiError: ``missing_field`` or ``invalid_value``.
    """
    if not text:
        raise ApiError("missing_field", f"{field} is empty", field=field, mend="give at least one character")
    check_text(text, limits, field)


def _sampling(message: Sampling, limits: Limits, field: str) -> Wanted:
    """Parameters that were set; what was left out is left to the model."""
    wanted: dict[str, Any] = {}
    for name, (least, most, above) in _RANGES.items():
        if not message.HasField(name):
            continue
        value = getattr(message, name)
        if not (least < value if above else least <= value) or not value <= most or math.isnan(value):
            raise ApiError(
                "invalid_value",
                f"{name} is {value:g}; it must be {'above' if above else 'at least'} {least:g} and at most "
                f"{most:g}",
                field=f"{field}.{name}",
                mend="change it, or leave it out",
            )
        wanted[name] = value
    if message.HasField("seed"):
        wanted["seed"] = message.seed
    if message.stop:
        wanted["stop"] = _stops(list(message.stop), f"{field}.stop")
    wanted |= {name: True for name in ("return_log_probs", "ignore_eos") if getattr(message, name)}
    if message.json_schema:
        check_text(message.json_schema, limits, f"{field}.json_schema")
        parse_json(message.json_schema, limits)
        wanted["json_schema"] = message.json_schema
    if message.adapter:
        check_name(message.adapter, f"{field}.adapter")
        wanted["adapter"] = message.adapter
    return cast(Wanted, wanted)


def _stops(stops: list[str], field: str) -> list[str]:
    if len(stops) > MAX_STOPS:
        raise ApiError(
            "invalid_value",
            f"{len(stops)} stop strings, and {MAX_STOPS} are allowed",
            field=field,
            mend="give fewer",
        )
    for index, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise ApiError(
                "invalid_value",
                f"the stop string has {len(stop)} characters; 1 to {MAX_STOP_LENGTH} are allowed",
                field=f"{field}.{index}",
                mend="change it, or leave it out",
            )
    return stops
