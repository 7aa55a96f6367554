"""How fast a loaded engine is on a recipe's length mix."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

from build_engines.check.execute import run_sequences
from build_engines.check.samples import Int32Array, mixed_lengths, random_sequences
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


def measure_speeds(
    loaded: Mapping[str, tuple[Runner, CompiledEngine]], spec: ModelSpec, recipe: Recipe
) -> dict[str, Speed]:
    """Measure loaded engines against each other.

    They take turns, round by round, so that a busy machine is as busy for each; medians over the
    rounds, after a warm-up.
    """
    lengths = mixed_lengths(recipe.length_mix, _BATCH, spec.max_length)
    batch = random_sequences(spec, lengths)
    single = random_sequences(spec, [sorted(lengths)[len(lengths) // 2]])
    budget = recipe.batching.token_budget

    def seconds(name: str, sequences: list[Int32Array]) -> float:
        runner, compiled = loaded[name]
        start = time.perf_counter()
        run_sequences(runner, spec, compiled.layout, sequences, budget)
        return time.perf_counter() - start

    batch_seconds = _in_turns(loaded, _ROUNDS, lambda name: seconds(name, batch))
    single_seconds = _in_turns(loaded, _SINGLES, lambda name: seconds(name, single))
    return {
        name: Speed(
            sequences_per_second=len(batch) / batch_seconds[name],
            tokens_per_second=sum(lengths) / batch_seconds[name],
            single_ms=single_seconds[name] * 1e3,
            threads=runner.threads,
        )
        for name, (runner, _) in loaded.items()
    }


def _in_turns(names: Iterable[str], rounds: int, measure: Callable[[str], float]) -> dict[str, float]:
    """Median of each, after two rounds of warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 2):
        for name, found in taken.items():
            value = measure(name)
            if number >= 2:
                found.append(value)
    return {name: statistics.median(found) for name, found in taken.items()}
