"""Spans of the engine model: how a batch was put together, and when the engine ran on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..packing import FILLER
from ..runners import Array, Runner, RunnerAround
from ..tracing import REQUESTS, Attributes, Stage, Tracer, start_tracer
from .batch import EncodedBatch, Failed

SEQUENCES, TOKENS = "tritonforge.sequences", "tritonforge.tokens"
BATCH_SEQUENCES, BATCH_TOKENS = "tritonforge.batch.sequences", "tritonforge.batch.tokens"
RUN_TOKENS = "tritonforge.run.tokens"


class TimedRunner(RunnerAround):
    """An engine that notes when it ran.

    Args:
        runner: The engine.

    Attributes:
        runs: Start and end of each run, nanoseconds since 1970.
    """

    def __init__(self, runner: Runner) -> None:
        """Wrap an engine."""
        super().__init__(runner)
        self.runs: list[tuple[int, int]] = []

    def run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Array]:
        """Run the model once; see :meth:`Runner.run`."""
        start = time.time_ns()
        try:
            return self._runner.run(inputs)
        finally:
            self.runs.append((start, time.time_ns()))


class BatchTracer:
    """Notes the times of each execution, and makes spans of them for the requests that are traced.

    Args:
        tracer: Makes them.
        runner: The engine that the executions use.
    """

    def __init__(self, tracer: Tracer, runner: TimedRunner) -> None:
        """Wait for the first batch."""
        self._tracer = tracer
        self._runner = runner
        self._start = 0

    def begin(self) -> None:
        """An execution begins."""
        self._start = time.time_ns()
        self._runner.runs = []

    def end(self, requests: Sequence[Any], inputs: Sequence[NDArray[Any]], batch: EncodedBatch) -> None:
        """Its answers are ready.

        Args:
            requests: Triton's.
            inputs: ``input_ids`` of each; they are read here, for they end with the requests.
            batch: Their answers.
        """
        contexts = self._tracer.contexts(requests)
        if not contexts:
            return
        own = {index: _own(inputs[index], batch.results[index]) for index in contexts}
        start, end, runs = self._start, time.time_ns(), self._runner.runs
        whole: Attributes = {
            REQUESTS: len(requests),
            BATCH_SEQUENCES: batch.sequences,
            BATCH_TOKENS: sum(batch.run_tokens),
        }
        stages: list[Stage] = []
        at = start
        for run, (began, ended) in enumerate(runs):
            stages.append(Stage("assemble", at, began))
            # A run that failed has no tokens.
            tokens = {RUN_TOKENS: batch.run_tokens[run]} if len(batch.run_tokens) == len(runs) else {}
            stages.append(Stage("forward", began, ended, {**whole, **tokens}))
            at = ended

        def stage(index: int) -> Stage:
            attributes, failed = own[index]
            return Stage("encode", start, end, {**whole, **attributes}, failed, stages)

        self._tracer.record_batch(contexts, stage)

    def close(self) -> None:
        """Send what is left."""
        self._tracer.close()


def trace_batches(
    runner: Runner, model: str, warn: Callable[[str], None]
) -> tuple[Runner, BatchTracer | None]:
    """The engine, and what traces its batches where spans go somewhere."""
    tracer = start_tracer(model, warn)
    if tracer is None:
        return runner, None
    timed = TimedRunner(runner)
    return timed, BatchTracer(tracer, timed)


def _own(matrix: NDArray[Any], result: Any) -> tuple[Attributes, str]:
    """What is a request's own in a batch: its size, and which error it got."""
    rows = matrix.shape[0] if matrix.ndim else 0
    size = {SEQUENCES: rows, TOKENS: int((matrix != FILLER).sum())}
    return size, result.kind.value if isinstance(result, Failed) else ""
