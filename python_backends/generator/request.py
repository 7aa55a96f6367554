"""A request's tensors become sampling parameters, or one clear error.

Names and meanings are those of Triton's vLLM and TensorRT-LLM backends, so that their clients work unchanged:
https://github.com/triton-inference-server/vllm_backend, https://github.com/triton-inference-server/tensorrtllm_backend.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .protocol import SamplingParams
from .schema import SchemaError, check_schema

MAX_STOPS = 16
MAX_STOP_BYTES = 512
_INT32 = (1 << 31) - 1
_UINT64 = (1 << 64) - 1


class BadRequestError(ValueError):
    """A parameter of a request is wrong; the message names it, its value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class _Number:
    """What a numeric parameter may be."""

    kind: type[int] | type[float]
    low: float
    high: float
    above_low: bool = False

    def check(self, name: str, value: Any) -> Any:
        wrong = isinstance(value, bool) or not isinstance(value, int | float)
        if wrong or (self.kind is int and not isinstance(value, int)):
            word = "a whole number" if self.kind is int else "a number"
            raise BadRequestError(f"{name} is {value!r}; {word} is needed")
        inside = self.low < value if self.above_low else self.low <= value
        if not (inside and value <= self.high):  # NaN is not, either
            least = f"above {self.low:g}" if self.above_low else f"at least {self.low:g}"
            shown = f"{value:g}" if isinstance(value, float) else repr(value)[:40]  # it may have 400 digits
            raise BadRequestError(f"{name} is {shown}; it must be {least} and at most {self.high}")
        return self.kind(value)


_NUMBERS = {
    "max_tokens": _Number(int, 1, _INT32),
    "min_tokens": _Number(int, 0, _INT32),
    "temperature": _Number(float, 0, 2),
    "top_p": _Number(float, 0, 1, above_low=True),
    "top_k": _Number(int, -1, _INT32),
    "seed": _Number(int, 0, _UINT64),
    "repetition_penalty": _Number(float, 0, 10, above_low=True),
    "presence_penalty": _Number(float, -2, 2),
    "frequency_penalty": _Number(float, -2, 2),
}
_FLAGS = ("ignore_eos",)
ALIASES = {"random_seed": "seed", "min_length": "min_tokens", "stop_words": "stop"}
"""Names that TensorRT-LLM's backend has for the same things."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What one request asks for; exactly one of ``text`` and ``messages`` is set.

    Attributes:
        text: The prompt.
        messages: A conversation as JSON, for the chat template.
        max_tokens: As asked for; None leaves it to the settings and the room there is.
        params: All else; its ``max_tokens`` is not yet settled.
        stop: Strings that end the answer.
        stream: One response a step, or one in all.
        echo: The answer begins with the prompt.
    """

    text: str | None
    messages: str | None
    max_tokens: int | None
    params: SamplingParams
    stop: tuple[str, ...] = ()
    stream: bool = False
    echo: bool = False


def parse_request(inputs: Mapping[str, NDArray[Any]], max_text_bytes: int) -> GenerationRequest:
    """Check a request's tensors.

    Args:
        inputs: Tensors by name; those that were not sent are absent.
        max_text_bytes: Longest prompt in UTF-8 bytes.

    Raises:
        BadRequestError: Something is wrong with a parameter.
    """
    text = _text(inputs, "text_input", max_text_bytes)
    messages = _text(inputs, "messages", max_text_bytes)
    if (text is None) == (messages is None):
        given = "neither" if text is None else "both"
        raise BadRequestError(f"give one of text_input and messages; {given} was given")
    values = _values(inputs, max_text_bytes)
    stop = values.pop("stop", ())
    max_tokens = values.pop("max_tokens", None)
    if values.get("top_k") == -1:  # vLLM's word for all
        values["top_k"] = 0
    if max_tokens is not None and values.get("min_tokens", 0) > max_tokens:
        raise BadRequestError(f"min_tokens is {values['min_tokens']}, above max_tokens, {max_tokens}")
    if values.get("temperature", 0) > 0:
        values.setdefault("seed", secrets.randbits(63))
    params = SamplingParams(
        max_tokens=max_tokens or 1,
        log_probs=_flag(inputs, "return_log_probs"),
        json_schema=_json_schema(inputs, max_text_bytes),
        adapter=_text(inputs, "adapter", MAX_STOP_BYTES),
        **values,
    )
    return GenerationRequest(
        text=text,
        messages=messages,
        max_tokens=max_tokens,
        params=params,
        stop=stop,
        stream=_flag(inputs, "stream"),
        echo=not _flag(inputs, "exclude_input_in_output", default=True),
    )


def _values(inputs: Mapping[str, NDArray[Any]], max_bytes: int) -> dict[str, Any]:
    """The parameters that a tensor or an entry of ``sampling_parameters`` may give; a tensor counts first."""
    values = _sampling_parameters(_text(inputs, "sampling_parameters", max_bytes))
    for name in (*_NUMBERS, *_FLAGS, "stop", *ALIASES):
        tensor = inputs.get(name)
        if tensor is None:
            continue
        known = ALIASES.get(name, name)
        if known != name and known in inputs:
            raise BadRequestError(f"{name} and {known} mean the same; give one of them")
        if known == "stop":
            values[known] = _stops(name, [_decode(name, item) for item in tensor.reshape(-1)])
        elif known in _FLAGS:
            values[known] = bool(_single(name, tensor))
        else:
            values[known] = _NUMBERS[known].check(name, _single(name, tensor).item())
    return values


def _sampling_parameters(text: str | None) -> dict[str, Any]:
    """The JSON object of vLLM's backend."""
    if text is None or not text.strip():
        return {}
    where = "sampling_parameters"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"{where} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequestError(f'{where} must be a JSON object, such as {{"temperature": 0.7}}')
    values: dict[str, Any] = {}
    for name, value in found.items():
        known = ALIASES.get(name, name)
        label = f"{where}[{name!r}]"
        if known in values:
            raise BadRequestError(f"{label} was given under another name already")
        if known == "stop":
            values[known] = _stops(label, [value] if isinstance(value, str) else value)
        elif known in _FLAGS:
            if not isinstance(value, bool):
                raise BadRequestError(f"{label} is {value!r}; true or false is needed")
            values[known] = value
        elif known in _NUMBERS:
            values[known] = _NUMBERS[known].check(label, _number(value))
        else:
            allowed = ", ".join((*_NUMBERS, *_FLAGS, "stop"))
            raise BadRequestError(f"{label} is unknown; allowed: {allowed}")
    return values


def _number(value: Any) -> Any:
    """A number written as a string, as genai-perf sends it and vLLM's backend takes it."""
    for kind in (int, float):
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = kind(value)
    return value


def _stops(name: str, stops: Any) -> tuple[str, ...]:
    """Strings that end the answer, each once."""
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise BadRequestError(f"{name} must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise BadRequestError(f"{name} holds {len(stops)} strings; {MAX_STOPS} are allowed")
    for stop in stops:
        if not stop:
            raise BadRequestError(f"{name} holds an empty string, which would end every answer at once")
        _require_text(name, stop)
        if len(stop.encode()) > MAX_STOP_BYTES:
            raise BadRequestError(f"{name} holds a string of more than {MAX_STOP_BYTES} bytes")
    return tuple(dict.fromkeys(stops))


def _json_schema(inputs: Mapping[str, NDArray[Any]], max_bytes: int) -> str | None:
    """A JSON schema as text; whether the engine can keep to it is the engine's to say."""
    text = _text(inputs, "json_schema", max_bytes)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"json_schema is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequestError("json_schema must be a JSON object")
    _require_text("json_schema", json.dumps(found, ensure_ascii=False))
    try:
        check_schema(found)
    except SchemaError as error:
        raise BadRequestError(str(error)) from None
    return text


def _text(inputs: Mapping[str, NDArray[Any]], name: str, max_bytes: int) -> str | None:
    """One string, None where it was not sent."""
    tensor = inputs.get(name)
    if tensor is None:
        return None
    item = _single(name, tensor)
    if len(item) > max_bytes:
        raise BadRequestError(f"{name} has {len(item)} bytes; {max_bytes} are allowed")
    return _decode(name, item)


def _decode(name: str, item: Any) -> str:
    if isinstance(item, str):
        return item
    try:
        return bytes(item).decode()
    except UnicodeDecodeError as error:
        raise BadRequestError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None


def _require_text(name: str, text: str) -> None:
    """JSON can escape half of a surrogate pair, which no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequestError(f"{name} holds {text[error.start]!r}, which is no character") from None


def _flag(inputs: Mapping[str, NDArray[Any]], name: str, *, default: bool = False) -> bool:
    tensor = inputs.get(name)
    return default if tensor is None else bool(_single(name, tensor))


def _single(name: str, tensor: NDArray[Any]) -> Any:
    if tensor.size != 1:
        raise BadRequestError(f"{name} has {tensor.size} values; one is needed")
    return tensor.reshape(-1)[0]


Read = Callable[[str], NDArray[Any] | None]
INPUTS = (
    "text_input",
    "messages",
    *_NUMBERS,
    *_FLAGS,
    "stop",
    *ALIASES,
    "stream",
    "return_log_probs",
    "json_schema",
    "adapter",
    "sampling_parameters",
    "exclude_input_in_output",
)
"""All inputs of a generation model."""


def read_inputs(read: Read) -> dict[str, NDArray[np.generic]]:
    """Collect the inputs that a request carries."""
    return {name: tensor for name in INPUTS if (tensor := read(name)) is not None}
