"""Token ids of many requests become rows of the engine's output. Knows no Triton."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..packing import FILLER, FloatArray, IndexArray, TokenBatch, flatten, pack, pad, plan_runs, scatter
from ..runners import Runner
from ..settings import EncoderSettings

CANCEL_CHECK_SECONDS = 40e-6
"""What asking Triton whether one request was cancelled costs (a message there and back)."""

CANCEL_CHECK_SHARE = 0.01
"""Asking may cost at most this share of the compute that it can save.

Triton itself drops what was cancelled in its queue. What is left are requests handed over while the
runs before them last, and of those only the ones sent to the engine model directly: an ensemble
passes a cancellation on when it schedules a step, not later.
"""


class Failure(Enum):
    """Why a request has no result."""

    INVALID = "invalid"
    CANCELLED = "cancelled"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Failed:
    """A request without a result; the message is for its sender."""

    kind: Failure
    message: str


@dataclass(slots=True)
class EncodedBatch:
    """Answers of one execution.

    Attributes:
        results: For each request FP32 [b, width], or why it failed.
        run_tokens: Tokens of each run.
        filler: Slots without a token that the engine computed: of windows, or of padded runs.
        sequences: Sequences computed.
        padding_avoided: Slots that one rectangle over the computed sequences would have added,
            less those that were added.
    """

    results: list[FloatArray | Failed] = field(default_factory=list)
    run_tokens: list[int] = field(default_factory=list)
    filler: int = 0
    sequences: int = 0
    padding_avoided: int = 0


class BatchEncoder:
    """Runs the engine on the token ids of many requests.

    Args:
        runner: The loaded engine.
        settings: Layout, token budget and limits.
    """

    def __init__(self, runner: Runner, settings: EncoderSettings) -> None:
        """Keep the engine; :meth:`probe` runs it first."""
        self._runner = runner
        self._settings = settings
        self._padded = settings.layout == "padded"
        # Unknown before the first run: then asking always pays.
        self._seconds_per_token = float("inf")

    def probe(self) -> int:
        """Run one token through the engine, so that a wrong model fails at load.

        Returns:
            Width of the output: embedding dimension or number of labels.

        Raises:
            ValueError: The output lacks, or is not FP32 [sequences, width].
        """
        batch = flatten([np.zeros((1, 1), np.int32)])
        return int(self._compute(batch, np.arange(1)).shape[1])

    def encode(self, requests: Sequence[NDArray[Any]], is_cancelled: Callable[[int], bool]) -> EncodedBatch:
        """Compute all requests in as few runs as the token budget allows.

        Cancelled requests are dropped before each run, where asking costs little against what it
        may save. An exception in a run fails the requests of that run only.

        Args:
            requests: For each request INT32 [b, n], filler after the end of shorter texts.
            is_cancelled: Tells whether the request with this index was cancelled meanwhile.

        Returns:
            Results in the order of the requests.
        """
        failed: dict[int, Failed] = {}
        matrices = []
        for index, matrix in enumerate(requests):
            if matrix.ndim != 2 or matrix.dtype != np.int32 or matrix.size == 0:
                shape = f"{matrix.dtype} {list(matrix.shape)}"
                failed[index] = Failed(Failure.INVALID, f"input_ids is {shape}; send int32 [b, n]")
                matrix = np.zeros((0, 1), np.int32)
            matrices.append(matrix)
        rows = [matrix.shape[0] for matrix in matrices]
        owner = np.repeat(np.arange(len(rows)), rows)
        batch = flatten(matrices)
        self._refuse_invalid(matrices, batch, owner, failed)

        done: list[tuple[IndexArray, FloatArray]] = []
        answer = EncodedBatch()
        for run in self._plan(batch, owner, failed):
            self._drop_cancelled(batch, owner, run, failed, is_cancelled)
            run = _alive(run, owner, failed)
            if not run.size:
                continue
            try:
                started = time.perf_counter()
                result = self._compute(batch, run)
            except Exception as error:
                failure = Failed(Failure.ENGINE, f"the engine failed on this batch: {error}")
                failed.update(dict.fromkeys(owner[run].tolist(), failure))
                continue
            tokens = int(batch.lengths[run].sum())
            self._seconds_per_token = (time.perf_counter() - started) / tokens
            done.append((run, result))
            answer.run_tokens.append(tokens)
            answer.filler += self._runner.filler

        self._count(batch, [run for run, _ in done], answer)
        answer.results = self._split(done, rows, batch.count, failed)
        return answer

    def _refuse_invalid(
        self,
        matrices: Sequence[NDArray[np.int32]],
        batch: TokenBatch,
        owner: IndexArray,
        failed: dict[int, Failed],
    ) -> None:
        """Note the requests that would fail the run, or poison it, for everyone in it."""
        vocab_size, max_length = self._settings.vocab_size, self._settings.max_length
        if not batch.count:
            return
        for position in np.flatnonzero(batch.lengths == 0).tolist():
            row = position - int(np.searchsorted(owner, owner[position]))
            failed[int(owner[position])] = Failed(
                Failure.INVALID, f"row {row} of input_ids holds no token, only filler ({FILLER})"
            )
        if max_length is not None and batch.lengths.max() > max_length:
            for position in np.flatnonzero(batch.lengths > max_length).tolist():
                failed[int(owner[position])] = Failed(
                    Failure.INVALID,
                    f"a sequence has {batch.lengths[position]} tokens; the model takes {max_length}",
                )
        if vocab_size is not None and batch.tokens.size and batch.tokens.max() >= vocab_size:
            for index, matrix in enumerate(matrices):
                if matrix.size and matrix.max() >= vocab_size:
                    failed[index] = Failed(
                        Failure.INVALID,
                        f"input_ids holds {matrix.max()}; the vocabulary ends at {vocab_size - 1}",
                    )

    def _plan(self, batch: TokenBatch, owner: IndexArray, failed: dict[int, Failed]) -> list[IndexArray]:
        def plan(lengths: IndexArray) -> list[IndexArray]:
            budget, ragged = self._settings.token_budget, self._runner.ragged
            return plan_runs(lengths, budget, padded=self._padded, ragged=ragged)

        if not failed:
            return plan(batch.lengths)
        alive = _alive(np.arange(batch.count), owner, failed)
        return [alive[run] for run in plan(batch.lengths[alive])]

    def _drop_cancelled(
        self,
        batch: TokenBatch,
        owner: IndexArray,
        run: IndexArray,
        failed: dict[int, Failed],
        is_cancelled: Callable[[int], bool],
    ) -> None:
        """Ask for the requests of a run whose compute is worth the question."""
        worth = CANCEL_CHECK_SECONDS / (CANCEL_CHECK_SHARE * self._seconds_per_token)
        tokens = np.bincount(owner[run], weights=batch.lengths[run])
        for index in np.flatnonzero(tokens > worth).tolist():
            if index not in failed and is_cancelled(index):
                failed[index] = Failed(Failure.CANCELLED, "the request was cancelled")

    def _compute(self, batch: TokenBatch, run: IndexArray) -> FloatArray:
        inputs = pad(batch, run, self._settings.pad_token_id) if self._padded else pack(batch, run)
        outputs = self._runner.run(inputs)
        name = self._settings.output
        if name not in outputs:
            raise ValueError(f"the graph has no output {name!r}; it has {', '.join(outputs)}")
        result = outputs[name]
        if result.ndim != 2 or result.shape[0] != run.size or result.dtype != np.float32:
            raise ValueError(
                f"{name} is {result.dtype} {list(result.shape)}; float32 [{run.size}, width] was expected"
            )
        return result

    def _count(self, batch: TokenBatch, runs: list[IndexArray], answer: EncodedBatch) -> None:
        if not runs:
            return
        lengths = [batch.lengths[run] for run in runs]
        answer.sequences = sum(run.size for run in runs)
        used = sum(answer.run_tokens)
        if self._padded:
            used = sum(part.size * int(part.max()) for part in lengths)
            answer.filler += used - sum(answer.run_tokens)
        answer.padding_avoided = answer.sequences * max(int(part.max()) for part in lengths) - used

    def _split(
        self,
        done: list[tuple[IndexArray, FloatArray]],
        rows: list[int],
        count: int,
        failed: dict[int, Failed],
    ) -> list[FloatArray | Failed]:
        results: list[FloatArray | Failed] = []
        if done:
            table = scatter([run for run, _ in done], [result for _, result in done], count)
        start = 0
        for index, size in enumerate(rows):
            results.append(failed[index] if index in failed else table[start : start + size])
            start += size
        return results


def _alive(run: IndexArray, owner: IndexArray, failed: dict[int, Failed]) -> IndexArray:
    """Sequences of a run whose requests have not failed."""
    return run[~np.isin(owner[run], list(failed))] if failed else run
