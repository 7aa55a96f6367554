"""Spans of one generation: in line, until its first token, from then on."""

from __future__ import annotations

import time

from ..tracing import Attributes, Stage, Tracer

PROMPT_TOKENS, COMPLETION_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
FINISH_REASON = "gen_ai.response.finish_reason"
RUNNING = "tritonforge.sequences.running"
DETOKENIZE_MS = "tritonforge.detokenize_ms"
FINISHED = frozenset({"stop", "length"})


class JobTrace:
    """The times of a request that Triton traces.

    Args:
        tracer: Makes the spans at the end.
        context: As Triton gave it.
    """

    __slots__ = (
        "_admitted",
        "_context",
        "_detokenizing",
        "_first",
        "_queued",
        "_running",
        "_start",
        "_tracer",
    )

    def __init__(self, tracer: Tracer, context: str) -> None:
        """It has arrived."""
        self._tracer = tracer
        self._context = context
        self._start = time.time_ns()
        self._queued = self._admitted = self._first = self._running = self._detokenizing = 0

    def queued(self) -> None:
        """Its prompt is tokens now."""
        self._queued = time.time_ns()

    def admitted(self, running: int) -> None:
        """The engine has it, and ``running`` sequences in all."""
        self._admitted = time.time_ns()
        self._running = running

    def first(self) -> None:
        """Its first token is there."""
        self._first = time.time_ns()

    def detokenized(self, nanoseconds: int) -> None:
        """It took so long to make text of some tokens."""
        self._detokenizing += nanoseconds

    def end(self, reason: str, prompt_tokens: int, completion_tokens: int) -> None:
        """It is over.

        Args:
            reason: As it is counted: ``stop`` and ``length``, or what went wrong.
            prompt_tokens: Of the prompt; 0: it never became tokens.
            completion_tokens: Of the answer.
        """
        end = time.time_ns()
        queued = self._queued or end
        admitted, first = self._admitted or end, self._first or end
        stages = [Stage("tokenize", self._start, queued, {PROMPT_TOKENS: prompt_tokens})]
        if self._queued:
            stages.append(Stage("queue", queued, admitted))
        if self._admitted:
            stages.append(Stage("prefill", admitted, first, {RUNNING: self._running}))
        if self._first:
            spent: Attributes = {
                DETOKENIZE_MS: self._detokenizing / 1e6,
                COMPLETION_TOKENS: completion_tokens,
            }
            stages.append(Stage("decode", first, end, spent))
        attributes: Attributes = {
            PROMPT_TOKENS: prompt_tokens,
            COMPLETION_TOKENS: completion_tokens,
            FINISH_REASON: reason,
        }
        failed = "" if reason in FINISHED else reason
        stage = Stage("generate", self._start, end, attributes, failed, stages)
        self._tracer.record(self._context, stage)
