"""Measures what a recipe's engines take for batches of each size and length."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from build_engines.check.execute import run_sequences
from build_engines.check.samples import mixed_lengths, random_sequences
from build_engines.context import BuildContext, Candidate
from build_engines.engines import ENGINES, CompiledEngine
from build_engines.steps import STEPS
from build_engines.versions import machine, package_versions
from python_backends.runners import Runner
from tritonforge.errors import EngineError, UsageError
from tritonforge.recipe import Recipe

Length = int | Literal["mix"]

_FEWEST_ROUNDS = 5
_WARM_UP = 2
_DRAWS = 16  # batches drawn from the mix: one alone says little of it
_PACKAGES = ("tritonforge", "numpy")


@dataclass(frozen=True)
class Grid:
    """What to measure.

    Attributes:
        batches: Texts of a batch.
        lengths: Tokens of each text, or ``mix`` for texts drawn from the recipe's length mix.
        seconds: How long each engine is measured in each cell.
        threads: Thread budget of an engine; None for the recipe's.
    """

    batches: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[Length, ...] = (16, 64, 128, "mix")
    seconds: float = 1.0
    threads: int | None = None


@dataclass(frozen=True)
class Cell:
    """One engine in one precision on batches of one size and length.

    Attributes:
        part: For instance ``openvino-int8``.
        batch: Texts.
        length: Tokens of each, or ``mix``.
        tokens: Of the whole batch, the mean where batches are drawn from the mix.
        rounds: How many batches were timed; with fewer than 100 the 99th percentile is interpolated.
        p50_ms: Median time of a batch, milliseconds.
        p90_ms: Nine of ten batches took no longer.
        p99_ms: 99 of 100 batches took no longer.
        texts_per_second: Over all timed batches.
        tokens_per_second: The same, in tokens.
        speedup: Time of the same engine's float32 for the same batches over this one's, None where there
            is none.
    """

    part: str
    batch: int
    length: Length
    tokens: float
    rounds: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    texts_per_second: float
    tokens_per_second: float
    speedup: float | None


@dataclass(frozen=True)
class Benchmark:
    """All that was measured, and on what.

    Attributes:
        name: The recipe's name.
        started: When, UTC.
        machine: Processor, cores, system.
        versions: Of the engines that took part.
        seconds: How long each engine was measured in each cell.
        token_budget: Tokens in one run at most; a larger batch takes several runs, as it does when served.
        engines: Engine, precision, layout, bytes and threads by part.
        skipped: Why an engine was not measured, by part.
        notes: What a reader should know.
        cells: In the order of the grid.
    """

    name: str
    started: datetime
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    seconds: float
    token_budget: int
    engines: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, in values that JSON knows."""
        return {**asdict(self), "started": self.started.isoformat(timespec="seconds")}


def run_benchmark(contexts: Sequence[BuildContext], grid: Grid) -> Benchmark:
    """Build what is missing, load every engine, and measure all in turns.

    Args:
        contexts: Of one recipe, with different engines and precisions.
        grid: What to measure.

    Raises:
        UsageError: If no length fits the model.
        EngineError: If no engine can be loaded on this machine.
    """
    started, load = datetime.now(UTC), os.getloadavg()[0]
    candidates: dict[str, Candidate] = {}
    for context in contexts:
        candidates |= built_candidates(context)
    context = contexts[0]
    threads = context.recipe.threads.engine if grid.threads is None else grid.threads
    loaded, skipped = _load(candidates, threads)
    longest = context.settled.max_length
    fitting = [length for length in grid.lengths if length == "mix" or length <= longest]
    if not fitting:
        raise UsageError(
            f"no length is within max_length {longest}", where="--lengths", mend=f"--lengths {longest}"
        )
    too_long = [str(length) for length in grid.lengths if length not in fitting]
    notes = [f"not measured, beyond max_length {longest}: {', '.join(too_long)} tokens"] if too_long else []
    if load > len(os.sched_getaffinity(0)):
        notes.append(f"the machine was busy (load {load:.1f} when this began): times are too long")
    cells: list[Cell] = []
    for length in fitting:
        for batch in grid.batches:
            context.progress(f"batches of {batch}, length {length}")
            cells += _cells(context, loaded, batch, length, grid.seconds)
    versions = package_versions(_PACKAGES)
    for part in loaded:
        versions |= ENGINES[candidates[part].compiled.engine].describe()
    return Benchmark(
        name=context.recipe.name,
        started=started,
        machine={**machine(), "load": f"{load:.1f} when this began"},
        versions=versions,
        seconds=grid.seconds,
        token_budget=context.recipe.batching.token_budget,
        engines={
            part: {
                "engine": compiled.engine,
                "precision": compiled.precision,
                "layout": compiled.layout,
                "bytes": compiled.size_bytes,
                "threads": runner.threads,
            }
            for part, (runner, compiled) in loaded.items()
        },
        skipped=skipped,
        notes=tuple(notes),
        cells=tuple(cells),
    )


def served_precisions(recipe: Recipe) -> set[str]:
    """Precisions that the recipe's engine knows, or any engine where it is ``auto``."""
    name = recipe.encoder_engine
    engines = ENGINES.values() if name == "auto" else (ENGINES[name],)
    return {"auto", *(precision for engine in engines for precision in engine.precisions)}


def built_candidates(context: BuildContext) -> dict[str, Candidate]:
    """Run the build's steps up to ``compile``, which reuse what is there; the report stays as it is."""
    for step in STEPS:
        context.progress(step.name)
        step.run(context)
        if step.name == "compile":
            break
    return {candidate.part: candidate for candidate in context.candidates.values()}


def _load(
    candidates: Mapping[str, Candidate], threads: int
) -> tuple[dict[str, tuple[Runner, CompiledEngine]], dict[str, str]]:
    """Load all that this machine can run; the others with the reason why not."""
    loaded: dict[str, tuple[Runner, CompiledEngine]] = {}
    skipped: dict[str, str] = {}
    refused: EngineError | None = None
    for part, candidate in candidates.items():
        compiled = candidate.compiled
        try:
            loaded[part] = (ENGINES[compiled.engine].load(compiled, threads), compiled)
        except EngineError as error:
            refused = error
            skipped[part] = error.what
    if refused and not loaded:
        raise refused
    return loaded, skipped


def _cells(
    context: BuildContext,
    loaded: Mapping[str, tuple[Runner, CompiledEngine]],
    batch: int,
    length: Length,
    seconds: float,
) -> Iterator[Cell]:
    """Measure one batch on every engine."""
    spec, recipe = context.settled, context.recipe
    if length == "mix":
        drawn = [mixed_lengths(recipe.length_mix, batch, spec.max_length, seed) for seed in range(_DRAWS)]
    else:
        drawn = [[length] * batch]
    batches = [random_sequences(spec, lengths, seed) for seed, lengths in enumerate(drawn)]

    def measure(part: str, number: int) -> float:
        runner, compiled = loaded[part]
        start = time.perf_counter()
        run_sequences(
            runner, spec, compiled.layout, batches[number % len(batches)], recipe.batching.token_budget
        )
        return time.perf_counter() - start

    taken = in_turns(list(loaded), measure, seconds)
    totals = {part: sum(times) for part, times in taken.items()}
    for part, times in taken.items():
        p50, p90, p99 = (float(q) for q in np.percentile(times, (50, 90, 99)))
        tokens = sum(sum(drawn[number % len(drawn)]) for number in range(len(times)))
        baseline = totals.get(f"{loaded[part][1].engine}-fp32")
        yield Cell(
            part=part,
            batch=batch,
            length=length,
            tokens=tokens / len(times),
            rounds=len(times),
            p50_ms=p50 * 1e3,
            p90_ms=p90 * 1e3,
            p99_ms=p99 * 1e3,
            texts_per_second=batch * len(times) / totals[part],
            tokens_per_second=tokens / totals[part],
            speedup=baseline / totals[part] if baseline else None,
        )


def in_turns(
    parts: Sequence[str], measure: Callable[[str, int], float], seconds: float
) -> dict[str, list[float]]:
    """Time all parts round by round, so that a busy machine is as busy for each.

    Each round begins with another part, so that none always follows the same neighbour.

    Args:
        parts: What to measure.
        measure: Runs a part once and gives the seconds it took; told the number of the round.
        seconds: Time for each part; five rounds are done however long they take.

    Returns:
        Seconds of each round, by part; the two rounds of warm-up are left out.
    """
    taken: dict[str, list[float]] = {part: [] for part in parts}
    for number in range(_WARM_UP):
        for part in parts:
            measure(part, number)
    spent, rounds = 0.0, 0
    while rounds < _FEWEST_ROUNDS or spent < seconds * len(parts):
        first = rounds % len(parts)
        for part in (*parts[first:], *parts[:first]):
            took = measure(part, rounds)
            taken[part].append(took)
            spent += took
        rounds += 1
    return taken
