"""What generation needs on every protocol, free of any input or output: parameters, pieces, completions."""

from __future__ import annotations

import json
import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from clients.core import ModelMetadata
from clients.errors import ClientError, InvalidRequestError

TEXT_OUTPUT = "text_output"

#: One turn of a chat: ``{"role": "user", "content": "Hello"}``.
Message = Mapping[str, str]


class Sampling(TypedDict, total=False):
    """Parameters of a request; what is left out is the model's default, which is greedy.

    Attributes:
        max_tokens: Tokens to generate at most.
        min_tokens: Tokens before which the answer may not end.
        temperature: Divides the logits; 0 takes the most likely token each time.
        top_p: Choose from the smallest set of tokens whose probabilities reach it.
        top_k: Choose from so many most likely tokens; 0 means all.
        seed: The same seed gives the same answer.
        stop: Strings at which the answer ends; they are not part of it.
        repetition_penalty: Makes tokens seen before less likely; 1 means none.
        presence_penalty: Taken off the logits of tokens generated before, once.
        frequency_penalty: The same, for each time.
        ignore_eos: Go on to ``max_tokens`` whatever is generated.
        return_log_probs: Give the natural logarithm of each token's probability.
        json_schema: The answer is JSON that fits this schema.
        adapter: Name of a LoRA adapter.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: str | Sequence[str]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    ignore_eos: bool
    return_log_probs: bool
    json_schema: str | Mapping[str, Any]
    adapter: str


#: Triton's type of each input.
DATATYPES = {
    "text_input": "BYTES",
    "messages": "BYTES",
    "stream": "BOOL",
    "max_tokens": "INT32",
    "min_tokens": "INT32",
    "temperature": "FP32",
    "top_p": "FP32",
    "top_k": "INT32",
    "seed": "UINT64",
    "stop": "BYTES",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "ignore_eos": "BOOL",
    "return_log_probs": "BOOL",
    "json_schema": "BYTES",
    "adapter": "BYTES",
}
_BOUNDS = {"INT32": (-(2**31), 2**31 - 1), "UINT64": (0, 2**64 - 1)}

#: Inputs of a request by name: a value each, ``stop`` a list.
Fields = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A part of an answer, as it comes.

    Attributes:
        text: The new text. Empty while the server holds back half a character or what may become a stop
            string.
        token_ids: The new tokens.
        log_probs: One for each token, where ``return_log_probs`` asked for them.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Completion:
    """An answer.

    Attributes:
        text: The text, without the prompt.
        token_ids: Its tokens.
        log_probs: One for each token, where ``return_log_probs`` asked for them.
        finish_reason: ``"stop"`` (the model or a stop string ended it), ``"length"`` (``max_tokens``, or the
            context is full), ``"cancelled"`` (the caller left a stream early); ``None`` while it goes on.
        prompt_tokens: Tokens of the prompt; ``None`` where the end, which tells it, did not come.
        completion_tokens: Tokens generated.
        latency: Seconds from the request to the last piece, retries included.
        ttft: Seconds to the first piece of a stream; ``None`` for an answer that was asked for as a whole.
    """

    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    log_probs: tuple[float, ...] = field(repr=False)
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int
    latency: float
    ttft: float | None


@dataclass(frozen=True)
class Reply:
    """One response of the server.

    Attributes:
        piece: What is new.
        finish_reason: In the last response.
        prompt_tokens: In the last response.
        completion_tokens: In the last response.
    """

    piece: Piece
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Any]) -> Reply:
        """Build it from the outputs by name; arrays may have become scalars, as Triton's JSON has them.

        Raises:
            ClientError: There is no text among them.
        """
        if TEXT_OUTPUT not in outputs:
            raise ClientError(f"a response without {TEXT_OUTPUT}: {dict(outputs)}", status="DATA_LOSS")
        piece = Piece(
            str(outputs[TEXT_OUTPUT]), _items(outputs.get("token_ids")), _items(outputs.get("log_probs"))
        )
        return cls(piece, *(outputs.get(n) for n in ("finish_reason", "prompt_tokens", "completion_tokens")))


def _items(value: Any) -> tuple[Any, ...]:
    """A list, a lone number or nothing, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


class Collector:
    """Puts a completion together from replies.

    Attributes:
        streams: Whether the first reply is only the first of several.
    """

    def __init__(self, streams: bool) -> None:
        """Start the clock."""
        self.streams = streams
        self._start = time.perf_counter()
        self._last = self._start
        self._first: float | None = None
        self._pieces: list[Piece] = []
        self._end: Reply | None = None
        self._cancelled = False

    def add(self, reply: Reply) -> Piece:
        """Take a reply in and return its piece."""
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last
        self._pieces.append(reply.piece)
        if reply.finish_reason is not None:
            self._end = reply
        return reply.piece

    def cancel(self) -> None:
        """Note that no more will come; nothing if the end was there already."""
        self._cancelled = self._end is None

    def completion(self) -> Completion:
        """Return what has come until now."""
        tokens = tuple(token for piece in self._pieces for token in piece.token_ids)
        end = self._end
        return Completion(
            text="".join(piece.text for piece in self._pieces),
            token_ids=tokens,
            log_probs=tuple(value for piece in self._pieces for value in piece.log_probs),
            finish_reason=end.finish_reason if end else "cancelled" if self._cancelled else None,
            prompt_tokens=end.prompt_tokens if end else None,
            completion_tokens=end.completion_tokens if end and end.completion_tokens else len(tokens),
            latency=self._last - self._start,
            ttft=self._first - self._start if self.streams and self._first is not None else None,
        )


def prompt_fields(prompt: str, sampling: Sampling) -> Fields:
    """Check a prompt and its parameters.

    Raises:
        TypeError: The prompt is no str, or a parameter is unknown or of a wrong type.
        ValueError: A number does not fit its type, or a text cannot be written as UTF-8.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, not {type(prompt).__name__}")
    return _fields("text_input", prompt, sampling)


def chat_fields(messages: Sequence[Message], sampling: Sampling) -> Fields:
    """Check the messages of a chat and its parameters.

    Raises:
        TypeError: As for :func:`prompt_fields`, or a message is no mapping of ``role`` and ``content``.
        ValueError: As for :func:`prompt_fields`, or there is no message.
    """
    if isinstance(messages, str | bytes | Mapping):
        raise TypeError(f"messages must be a list of messages, not one {type(messages).__name__}")
    for index, message in enumerate(messages):
        texts = [message.get(key) for key in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f'messages[{index}] must be {{"role": ..., "content": ...}}, not {message!r}')
    if not messages:
        raise ValueError("messages is empty: give at least the user's")
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False)
    return _fields("messages", text, sampling)


def _fields(name: str, text: str, sampling: Sampling) -> Fields:
    """The inputs of a request; a parameter that is None is left out."""
    fields: Fields = {name: _text(name, text)}
    for key, value in sampling.items():
        if key not in Sampling.__annotations__:
            known = ", ".join(Sampling.__annotations__)
            raise TypeError(f"there is no parameter {key!r}; there are {known}")
        if value is None or (key == "stop" and not value):
            continue
        if key == "stop":
            # Each is checked by _text.
            stops = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
            fields[key] = [_text(f"stop[{index}]", stop) for index, stop in enumerate(stops)]
        elif key == "json_schema" and isinstance(value, Mapping):
            fields[key] = json.dumps(value)
        else:
            fields[key] = _value(key, value)
    return fields


def _value(key: str, value: Any) -> Any:
    """One number, flag or text, in Python's own type."""
    datatype = DATATYPES[key]
    if datatype == "BYTES":
        return _text(key, value)
    wrong = TypeError(f"{key} must be {_WORDS[datatype]}, not {value!r}")
    if datatype == "BOOL":
        if not isinstance(value, bool):
            raise wrong
        return value
    if isinstance(value, bool | str):
        raise wrong
    try:
        number = float(value) if datatype == "FP32" else operator.index(value)
    except (TypeError, ValueError):
        raise wrong from None
    low, high = _BOUNDS.get(datatype, (float("-inf"), float("inf")))
    if not low <= number <= high:
        raise ValueError(f"{key} must be from {low} to {high}, not {value}")
    return number


_WORDS = {"BOOL": "True or False", "FP32": "a number", "INT32": "a whole number", "UINT64": "a whole number"}


def _text(name: str, text: Any) -> str:
    """A text that can be sent."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be written as UTF-8: {error.reason}") from error
    return text


def check_times(**seconds: float | None) -> None:
    """Refuse timeouts that no answer could meet.

    Raises:
        ValueError: One of them is not positive.
    """
    for name, value in seconds.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be more than 0 seconds, not {value}")


def check_model(metadata: ModelMetadata, fields: Fields) -> None:
    """Refuse a model that does not generate, or lacks a parameter, before anything is sent.

    Raises:
        InvalidRequestError: It names what the model has instead.
    """
    metadata.output(TEXT_OUTPUT)
    names = {spec.name for spec in metadata.inputs}
    for name in fields:
        if name not in names:
            raise InvalidRequestError(
                f"model {metadata.name} takes no {name!r}",
                status="INVALID_ARGUMENT",
                hint=f"it takes {', '.join(sorted(names))}",
            )
