"""Runs sequences through a loaded engine the way the backend does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from build_engines.spec import ModelSpec
from python_backends.packing import TokenBatch, flatten, pack, pad, plan_runs, scatter
from python_backends.runners import Runner
from tritonforge.recipe import Layout


def run_sequences(
    runner: Runner, spec: ModelSpec, layout: Layout, sequences: Sequence[NDArray[np.int32]], token_budget: int
) -> NDArray[np.float32]:
    """Run all sequences, in as many runs as the budget asks for.

    Args:
        runner: The loaded engine.
        spec: Names the output and the padding token.
        layout: Which inputs the graph takes.
        sequences: int32 [n] each.
        token_budget: Tokens in one run at most.

    Returns:
        float32 [sequences, width], in order.
    """
    batch = flatten([ids[None] for ids in sequences])
    runs = plan_runs(batch.lengths, token_budget, padded=layout == "padded", ragged=runner.ragged)
    results = [
        runner.run(run_inputs(batch, run, layout, spec.pad_token_id))[spec.output_name] for run in runs
    ]
    return scatter(runs, results, batch.count)


def run_inputs(
    batch: TokenBatch, run: NDArray[np.int64], layout: Layout, pad_token_id: int
) -> dict[str, NDArray[np.int32]]:
    """Inputs of one run in the graph's layout."""
    return pack(batch, run) if layout == "packed" else pad(batch, run, pad_token_id)
