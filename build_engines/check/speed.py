"""How fast a loaded engine is on a recipe's length mix."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from build_engines.check.execute import run_sequences
from build_engines.check.samples import mixed_lengths, random_sequences
from build_engines.engines import CompiledEngine
from build_engines.spec import ModelSpec
from python_backends.runners import Runner
from tritonforge.recipe import Recipe

_BATCH = 32  # about what the dynamic batcher forms with 64 clients
_ROUNDS = 7
_SINGLES = 15


@dataclass(frozen=True)
class Speed:
    """Speed of one engine in one process, tokens in, vectors out.

    Attributes:
        sequences_per_second: Batches of 32 texts drawn from the length mix.
        tokens_per_second: The same, in tokens.
        single_ms: Median latency of one text of the mix's middle length, milliseconds.
        threads: Thread budget of the engine.
    """

    sequences_per_second: float
    tokens_per_second: float
    single_ms: float
    threads: int

    def figures(self) -> dict[str, float]:
        """As a flat mapping, for reports."""
        return asdict(self)


def measure_speed(runner: Runner, compiled: CompiledEngine, spec: ModelSpec, recipe: Recipe) -> Speed:
    """Measure a loaded engine; medians over several rounds after a warm-up."""
    lengths = mixed_lengths(recipe.length_mix, _BATCH, spec.max_length)
    batch = random_sequences(spec, lengths)
    single = random_sequences(spec, [sorted(lengths)[len(lengths) // 2]])
    budget = recipe.batching.token_budget

    batch_seconds = _median(lambda: run_sequences(runner, spec, compiled.layout, batch, budget), _ROUNDS)
    single_seconds = _median(lambda: run_sequences(runner, spec, compiled.layout, single, budget), _SINGLES)
    return Speed(
        sequences_per_second=len(batch) / batch_seconds,
        tokens_per_second=sum(lengths) / batch_seconds,
        single_ms=single_seconds * 1e3,
        threads=runner.threads,
    )


def _median(run: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call, warmed up twice."""
    for _ in range(2):
        run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
