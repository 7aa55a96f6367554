"""Do a compiled engine's numbers agree with transformers' own?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.check.compare import cosines
from build_engines.check.execute import run_inputs
from build_engines.check.samples import random_sequences
from build_engines.engines import CompiledEngine
from build_engines.spec import ModelSpec
from python_backends.packing import flatten, scatter
from python_backends.runners import Runner
from tritonforge.errors import ParityError
from tritonforge.recipe import Layout

FP32_TOLERANCE = 1e-4
_LONGEST_TOGETHER = 512  # attention's rectangle is quadratic in the longest of a run


@dataclass(frozen=True)
class Parity:
    """How far an engine is from the reference.

    Attributes:
        max_difference: Largest absolute difference of any number.
        min_cosine: Smallest cosine between a row and its reference.
        mean_cosine: Mean of the same.
        finite: Whether every number is; a row with NaN or Inf counts as cosine -1.
        sequences: How many were compared.
        shortest: Tokens of the shortest.
        longest: Tokens of the longest.
    """

    max_difference: float
    min_cosine: float
    mean_cosine: float
    finite: bool
    sequences: int
    shortest: int
    longest: int

    def figures(self) -> dict[str, Any]:
        """As a flat mapping, for reports."""
        return asdict(self)


def check_parity(
    runner: Runner,
    compiled: CompiledEngine,
    spec: ModelSpec,
    sequences: Sequence[NDArray[np.int32]],
    reference: NDArray[np.float32],
) -> Parity:
    """Compare, with every sequence among neighbours of other lengths.

    Args:
        runner: The loaded engine.
        compiled: Says precision and layout.
        spec: The model.
        sequences: int32 [n] each.
        reference: float32 [sequences, width], each sequence alone in eager transformers.

    Raises:
        ParityError: If fp32 is off by more than 1e-4. What other precisions may lose is the gate's
            business, which judges on text.
    """
    found = _run_mixed(runner, spec, compiled.layout, sequences)
    parity = compare(found, reference, [len(ids) for ids in sequences])
    if compiled.precision != "fp32":
        return parity
    where = f"{compiled.engine} {compiled.precision}"
    if not parity.finite:
        raise ParityError("the engine gives NaN or Inf", where=where, mend="check the model's weights")
    if parity.max_difference > FP32_TOLERANCE:
        worst = len(sequences[int(np.abs(found - reference).max(axis=1).argmax())])
        raise ParityError(
            f"max difference {parity.max_difference:.2e} to eager transformers exceeds {FP32_TOLERANCE:.0e} "
            f"(worst at {worst} tokens, {compiled.layout} layout)",
            where=where,
            mend="this model's result depends on its neighbours or is not exported right; please report it",
        )
    return parity


def _run_mixed(
    runner: Runner, spec: ModelSpec, layout: Layout, sequences: Sequence[NDArray[np.int32]]
) -> NDArray[np.float32]:
    """Run everything up to 512 tokens at once, each longer sequence with a short one beside it."""
    batch = flatten([ids[None] for ids in sequences])
    short = np.flatnonzero(batch.lengths <= _LONGEST_TOGETHER)
    runs = [short]
    runs += [np.sort(np.array([i, short[0]])) for i in np.flatnonzero(batch.lengths > _LONGEST_TOGETHER)]
    inputs = (run_inputs(batch, run, layout, spec.pad_token_id) for run in runs)
    return scatter(runs, [runner.run(feed)[spec.output_name] for feed in inputs], batch.count)


def compare(found: NDArray[np.float32], reference: NDArray[np.float32], lengths: Sequence[int]) -> Parity:
    """Figures for two arrays of rows, float32 [sequences, width]."""
    finite = np.isfinite(found).all(axis=1)
    safe = np.where(finite[:, None], found, 0)
    cosine = cosines(found, reference)
    return Parity(
        max_difference=float(np.abs(safe - reference).max()),
        min_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
        finite=bool(finite.all()),
        sequences=len(lengths),
        shortest=min(lengths),
        longest=max(lengths),
    )


def parity_sequences(spec: ModelSpec, lengths: Sequence[int]) -> list[NDArray[np.int32]]:
    """Sequences of the given lengths, shuffled so that short and long are neighbours."""
    shuffled = np.random.default_rng(1).permutation(np.asarray(lengths)).tolist()
    return random_sequences(spec, shuffled, seed=1)
