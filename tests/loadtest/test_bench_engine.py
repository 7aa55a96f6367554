"""The engine's benchmark: its ways compute what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from loadtest.bench_engine import Engine, _Planned, machine_rate
from python_backends.packing import flatten

WIDTH, INNER = 8, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings, one linear layer, and the row of each sequence's first token."""
    ids, bounds, longest = (ops.parameter([-1], np.int32, name) for name in ("ids", "bounds", "longest"))
    for node, name in ((ids, "input_ids"), (bounds, "cu_seqlens"), (longest, "max_seqlen")):
        node.output(0).set_names({name})
    table = ops.constant(np.random.default_rng(0).standard_normal((100, WIDTH), dtype=np.float32))
    axis = ops.constant(np.int32(0))
    states = ops.matmul(
        ops.gather(table, ids, axis), ops.constant(np.ones((WIDTH, INNER), np.float32)), False, False
    )
    starts = ops.slice(bounds, ops.constant([0]), ops.constant([-1]), ops.constant([1]))
    path = tmp_path_factory.mktemp("engine")
    ov.save_model(ov.Model([ops.gather(states, starts, axis)], [ids, bounds, longest]), path / "model.xml")
    return path


def test_each_way_takes_any_batch(folder: Path) -> None:
    engine = Engine(folder, "fp32", 1)
    assert engine.flops_per_token == 2 * WIDTH * INNER
    for lengths in ((1,), (3, 40, 7, 90)):
        batch = flatten([np.ones((1, length), np.int32) for length in lengths])
        for way in engine.ways().values():
            way(batch)


def test_windows_are_planned_as_a_way_says(folder: Path) -> None:
    runner = _Planned(folder / "model.xml", 1, "fp32", slots=64, window=32)
    assert [run.width for run in runner._plan([30, 31, 29])] == [32, 32]
    assert [len(run.rows) for run in runner._plan([30, 31, 29])] == [2, 1]


def test_a_rate_is_measured() -> None:
    assert machine_rate(1, int8=False, seconds=0.05) > 1e8
