"""One request on its way through the loop: what it asked for, what it has got, and whom to tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from . import metrics
from .protocol import Failure, FinishReason, Progress, SamplingParams
from .text import TextStream
from .tracing import JobTrace


@dataclass(frozen=True, slots=True)
class Piece:
    """What one response carries.

    Attributes:
        text: New text.
        token_ids: New tokens.
        log_probs: One for each of them; empty where they were not asked for.
        finish: Set in the last piece.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the answer so far.
    """

    text: str
    token_ids: list[int]
    log_probs: list[float]
    finish: FinishReason | None
    prompt_tokens: int
    completion_tokens: int


class Reply(Protocol):
    """The way back to a client."""

    def send(self, piece: Piece) -> None:
        """Send a response; one with ``finish`` is the last."""
        ...

    def fail(self, failure: Failure, message: str) -> None:
        """Send an error, the last response."""
        ...

    def gone(self) -> bool:
        """Whether the client has cancelled or left."""
        ...


class Meter(Protocol):
    """What is used of :class:`~python_backends.metrics.Meters`."""

    def add(self, amounts: Mapping[str, float]) -> None:
        """Count."""
        ...

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float) -> None:
        """Put a value into a histogram."""
        ...


@dataclass(slots=True, eq=False)  # each is itself, and arrays do not compare
class Job:
    """A request and its answer so far.

    Attributes:
        prompt: Token ids, int64 [tokens].
        params: How to generate.
        text: Turns tokens into text, and knows the stop strings.
        reply: The way back.
        stream: Send each step's piece, not all in one.
        echo: Text that the answer begins with; empty for none.
        stop_token_ids: End-of-sequence tokens, which are no part of the text, special or not.
        arrived: ``time.monotonic()``.
        deadline: By when it must have left the line; None for no limit.
        trace: Its spans; None for a request that is not traced.
    """

    prompt: NDArray[np.int64]
    params: SamplingParams
    text: TextStream
    reply: Reply
    stream: bool = False
    echo: str = ""
    stop_token_ids: frozenset[int] = frozenset()
    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    trace: JobTrace | None = None
    _pieces: list[str] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _log_probs: list[float] = field(default_factory=list)
    _completion_tokens: int = 0
    _first: float = 0.0

    def admitted(self, meter: Meter, running: int) -> None:
        """Note that the engine has it, and ``running`` sequences in all."""
        if self.trace is not None:
            self.trace.admitted(running)
        meter.observe(metrics.WAITED, time.monotonic() - self.arrived)
        meter.add({metrics.PROMPT_TOKENS: len(self.prompt)})
        if self.echo:
            self._pieces.append(self.echo)

    def take(self, progress: Progress, meter: Meter) -> bool:
        """Add a step's tokens; True if a stop string ends the answer, whose later tokens are dropped."""
        tokens, log_probs = list(progress.tokens), list(progress.log_probs)
        ends = progress.finish is FinishReason.STOP and bool(tokens) and tokens[-1] in self.stop_token_ids
        started = time.perf_counter_ns() if self.trace is not None else 0
        self._pieces.append(self.text.push(tokens[:-1] if ends else tokens))
        if self.text.stopped:
            tokens, log_probs = tokens[: self.text.taken], log_probs[: self.text.taken]
        elif progress.finish is not None:
            self._pieces.append(self.text.finish())
        if self.trace is not None:
            self.trace.detokenized(time.perf_counter_ns() - started)
        self._tokens += tokens
        if self.params.log_probs:
            self._log_probs += log_probs
        self._completion_tokens += len(tokens)
        meter.add({metrics.TOKENS: len(tokens)})
        return self.text.stopped

    def send(self, finish: FinishReason | None, meter: Meter) -> None:
        """Send what has come, if it is to be sent now."""
        now = time.monotonic()
        if not self._first and self._completion_tokens:
            self._first = now
            if self.trace is not None:
                self.trace.first()
            meter.observe(metrics.FIRST_TOKEN, now - self.arrived)
        if finish is not None:
            self._count(finish.value, now, meter)
        elif not self.stream or not self._tokens:
            return
        self.reply.send(
            Piece(
                text="".join(self._pieces),
                token_ids=self._tokens,
                log_probs=self._log_probs,
                finish=finish,
                prompt_tokens=len(self.prompt),
                completion_tokens=self._completion_tokens,
            )
        )
        self._pieces, self._tokens, self._log_probs = [], [], []

    def fail(self, failure: Failure, message: str, meter: Meter) -> None:
        """Send an error."""
        self._count(failure.value, time.monotonic(), meter)
        self.reply.fail(failure, message)

    def _count(self, reason: str, now: float, meter: Meter) -> None:
        """Count the request, which is over."""
        if self.trace is not None:
            self.trace.end(reason, len(self.prompt), self._completion_tokens)
        meter.add({metrics.finished(reason): 1})
        meter.observe(metrics.DURATION, now - self.arrived)
        if self._completion_tokens > 1:
            meter.observe(metrics.PER_TOKEN, (now - self._first) / (self._completion_tokens - 1))
