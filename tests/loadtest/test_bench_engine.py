"""The engine's benchmark: its ways compute what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from loadtest.bench_engine import Engine, _halves, _round_tokens, machine_rate
from python_backends.packing import flatten, pack

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


@pytest.mark.parametrize("lengths", [(1,), (5, 17, 3), (64,) * 9, (300, 1)])
def test_filler_is_in_sequences_of_its_own(lengths: tuple[int, ...]) -> None:
    batch = flatten([np.ones((1, length), np.int32) for length in lengths])
    inputs = _round_tokens(pack(batch, np.arange(batch.count)))
    bounds = inputs["cu_seqlens"]
    np.testing.assert_array_equal(bounds[: batch.count + 1], batch.offsets)
    assert bounds[-1] == inputs["input_ids"].size <= batch.tokens.size * 17 / 16 + 1
    assert np.diff(bounds).min() > 0
    assert np.diff(bounds).max() <= inputs["max_seqlen"].size


def test_halves_have_like_many_tokens() -> None:
    lengths = np.array([40, 30, 31, 25, 3, 36, 5, 38])
    halves = _halves(lengths)
    assert sorted(np.concatenate(halves).tolist()) == list(range(lengths.size))
    assert max(lengths[half].sum() for half in halves) <= lengths.sum() * 0.7
    assert len(_halves(np.array([7]))) == 1


def test_a_rate_is_measured() -> None:
    assert machine_rate(1, int8=False, seconds=0.05) > 1e8
