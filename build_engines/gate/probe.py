"""Runs an engine through batch sizes, lengths, repetitions and neighbours, and notes what came out.

What is noted are figures only; :mod:`build_engines.gate.judge` holds them against thresholds, so that a
changed threshold needs no new run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.check.compare import Rows, cosines, differences
from build_engines.check.execute import run_inputs, run_sequences
from build_engines.check.samples import random_sequences
from build_engines.spec import ModelSpec
from python_backends.packing import flatten
from python_backends.runners import Array, Runner, RunnerAround
from tritonforge.recipe import Layout

Int32Array = NDArray[np.int32]

BATCHES = (1, 8, 32)
LENGTHS = (128, 512, 1024)
_DISTINCT = 3  # sequences of each length: enough to tell rows that were swapped
_PROBED = (3, 7, 16, 31, 64, 100, 128, 20)  # tokens of the texts whose neighbours change
_NEIGHBOURS = 24
_WORST = 5


@dataclass(frozen=True)
class Probe:
    """What came out.

    Attributes:
        source: ``held-out text`` or ``random tokens``.
        cells: One a batch size and length: ``batch``, ``tokens``, ``max_difference``, ``min_cosine``.
        bitwise: Whether the same run twice gave the same bits.
        repeat: ``max_difference`` and ``min_cosine`` between the two.
        neighbours: The same between a text alone and among others, over all texts and orders.
        worst: The texts that their neighbours changed most.
    """

    source: str
    cells: list[dict[str, float]]
    bitwise: bool
    repeat: dict[str, float]
    neighbours: dict[str, float]
    worst: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Values that fit JSON."""
        return asdict(self)


class _Once(RunnerAround):
    """A runner that computes equal inputs once: the runs of a large batch of few texts are the same."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._known: dict[bytes, dict[str, Array]] = {}

    def run(self, inputs: Mapping[str, Int32Array]) -> dict[str, Array]:
        """See :meth:`python_backends.runners.Runner.run`."""
        key = b"|".join(
            repr((name, array.shape)).encode() + array.tobytes() for name, array in sorted(inputs.items())
        )
        if key not in self._known:
            self._known[key] = self._runner.run(inputs)
        return self._known[key]


def grid_lengths(max_length: int) -> list[int]:
    """128, 512 and 1024 tokens, each cut at what the model takes."""
    return sorted({min(length, max_length) for length in LENGTHS})


def grid_sequences(spec: ModelSpec, texts: Sequence[Int32Array] | None) -> list[Int32Array]:
    """Three sequences of each length of the grid, int32 [n] each, shortest first.

    Args:
        spec: The model.
        texts: Held-out text, which is joined to make sequences that are long enough; random tokens where
            there is none. An INT8 engine is calibrated for text, and random tokens are none.
    """
    lengths = [length for length in grid_lengths(spec.max_length) for _ in range(_DISTINCT)]
    return _cut(texts, lengths) if texts else random_sequences(spec, lengths, seed=3)


def probe(
    runner: Runner,
    spec: ModelSpec,
    layout: Layout,
    reference: Rows,
    texts: Sequence[Int32Array] | None,
    token_budget: int,
    max_batch_size: int,
) -> Probe:
    """Run an engine through everything.

    Args:
        runner: The loaded engine.
        spec: The model.
        layout: Which inputs the graph takes.
        reference: float32 [sequences, width], eager transformers on :func:`grid_sequences`.
        texts: As given to :func:`grid_sequences`.
        token_budget: Tokens of a run at most, as it will be served.
        max_batch_size: Texts of a batch at most.
    """
    batches = sorted({min(size, max_batch_size) for size in BATCHES})
    sequences = grid_sequences(spec, texts)
    once = _Once(runner)
    cells = []
    for start in range(0, len(sequences), _DISTINCT):
        tokens = len(sequences[start])
        for size in batches:
            # A batch beyond the budget is served in several runs; filled alike, they are computed once.
            period = min(size, max(1, token_budget // tokens))
            rows = start + (np.arange(size) % period) % _DISTINCT
            found = run_sequences(once, spec, layout, [sequences[i] for i in rows], token_budget)
            cells.append({"batch": size, "tokens": tokens, **_figures(found, reference[rows])})

    mixed = _mixed(spec, texts, token_budget, max_batch_size)
    first, again = (_together(runner, spec, layout, mixed) for _ in range(2))
    neighbours, worst = _neighbours(runner, spec, layout, mixed)
    return Probe(
        source="held-out text" if texts else "random tokens",
        cells=cells,
        bitwise=bool(np.array_equal(first, again)),
        repeat=_figures(again, first),
        neighbours=neighbours,
        worst=worst,
    )


def _neighbours(
    runner: Runner, spec: ModelSpec, layout: Layout, mixed: list[Int32Array]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The first texts alone, and among the others in three orders; figures over all, and the worst texts."""
    probed = min(len(_PROBED), len(mixed))
    alone = np.concatenate([_together(runner, spec, layout, [ids]) for ids in mixed[:probed]])
    orders = {
        "with longer and shorter ones": np.arange(len(mixed)),
        "in reverse": np.arange(len(mixed))[::-1],
        "with each other only": np.random.default_rng(5).permutation(probed),
    }
    found = {}
    for name, order in orders.items():
        rows = np.empty((len(mixed), alone.shape[1]), np.float32)
        rows[order] = _together(runner, spec, layout, [mixed[i] for i in order])
        found[name] = rows[:probed]
    worst: list[dict[str, Any]] = [
        {"tokens": len(mixed[i]), "among": name, "max_difference": float(gap), "cosine": float(cosine)}
        for name, rows in found.items()
        for i, (gap, cosine) in enumerate(zip(differences(rows, alone), cosines(rows, alone), strict=True))
    ]
    worst.sort(key=lambda entry: (entry["cosine"], -entry["max_difference"]))
    rows = np.concatenate(list(found.values()))
    return _figures(rows, np.concatenate([alone] * len(found))), worst[:_WORST]


def _mixed(
    spec: ModelSpec, texts: Sequence[Int32Array] | None, token_budget: int, max_batch_size: int
) -> list[Int32Array]:
    """Sequences of many lengths that fit one run, the probed ones first."""
    random = np.random.default_rng(4).integers(1, 65, size=_NEIGHBOURS).tolist()
    lengths = np.minimum([*_PROBED, *random], spec.max_length)
    fits = int(np.searchsorted(np.cumsum(lengths), token_budget, side="right"))
    chosen = lengths[: max(2, min(fits, max_batch_size))].tolist()
    return _cut(texts, chosen) if texts else random_sequences(spec, chosen, seed=4)


def _cut(texts: Sequence[Int32Array], lengths: Sequence[int]) -> list[Int32Array]:
    """Sequences of these lengths out of the joined texts, each from another place of it.

    They begin and end as texts do, with the tokens that the tokenizer puts there.
    """
    first, last = texts[0][0], texts[0][-1]
    inner = np.concatenate([ids[1:-1] if len(ids) > 2 else ids for ids in texts])
    starts = np.linspace(0, len(inner), num=len(lengths), endpoint=False).astype(int)
    found = []
    for start, length in zip(starts, lengths, strict=True):
        ids = np.take(inner, np.arange(start, start + length), mode="wrap")
        if length > 2:
            ids[0], ids[-1] = first, last
        found.append(ids)
    return found


def _together(runner: Runner, spec: ModelSpec, layout: Layout, sequences: list[Int32Array]) -> Rows:
    """All sequences in one run."""
    batch = flatten([ids[None] for ids in sequences])
    inputs = run_inputs(batch, np.arange(batch.count), layout, spec.pad_token_id)
    rows: Rows = runner.run(inputs)[spec.output_name]
    return rows


def _figures(found: Rows, reference: Rows) -> dict[str, float]:
    """Figures over all rows."""
    return {
        "max_difference": float(differences(found, reference).max()),
        "min_cosine": float(cosines(found, reference).min()),
    }
