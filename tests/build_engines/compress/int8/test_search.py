"""Migration, ranges and bias correction of one layer with outlier channels, against plain numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build_engines.compress.int8.graph import Graph, group_by_source, role_of
from build_engines.compress.int8.histogram import ChannelHistogram
from build_engines.compress.int8.number import NUMBERS
from build_engines.compress.int8.observe import Observation
from build_engines.compress.int8.search import GroupSearch, Plan, weight_scales

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(64, 32)).astype(np.float32)
BIAS = RANDOM.normal(size=32).astype(np.float32)


def rows(count: int, seed: int) -> NDArray[Any]:
    """Two channels a hundred times as large as the others, one of them with a mean far from 0."""
    values = np.random.default_rng(seed).normal(size=(count, 64))
    values[:, 5] *= 100
    values[:, 9] = values[:, 9] * 10 + 90
    return values.astype(np.float32)


@pytest.fixture
def search() -> GroupSearch:
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "a.b.query.weight"], ["y"]),
                helper.make_node("Add", ["y", "c"], ["z"]),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 32])],
            [numpy_helper.from_array(WEIGHT, "a.b.query.weight"), numpy_helper.from_array(BIAS, "c")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    onnx.checker.check_model(model)
    graph = Graph(model)
    (group,) = group_by_source(graph.linears)
    assert (group.name, group.members[0].role, group.members[0].bias) == ("a.b.query", "query", "c")
    histogram = ChannelHistogram(64)
    histogram.update(rows(2000, 1))
    observation = Observation(histogram, rows(0, 2), 1.0, False)
    return GroupSearch(graph, group, observation, rows(300, 3), NUMBERS["int8"])


def output(plan: Plan, values: NDArray[Any]) -> NDArray[Any]:
    """What an INT8 kernel gives: integer products, scaled."""
    smooth = np.ones(64, np.float32) if plan.smooth is None else plan.smooth
    small = np.clip(np.rint(values / smooth / np.float32(plan.scale)), -127, 127).astype(np.int32)
    scales = plan.weight_scales["a.b.query"]
    weight = np.clip(np.rint(WEIGHT * smooth[:, None] / scales), -127, 127).astype(np.int32)
    shift = plan.shifts.get("a.b.query", np.zeros(32))
    return (small @ weight) * scales * plan.scale + BIAS + shift


def error(plan: Plan) -> float:
    values = rows(1000, 4)
    exact = values @ WEIGHT + BIAS
    return float(np.square(output(plan, values) - exact).mean())


def test_migration_takes_the_outliers_away(search: GroupSearch) -> None:
    plain, moved = search.best("max", smooth=False), search.best("max", smooth=True)
    assert plain.smooth is None
    assert moved.alpha is not None and moved.smooth is not None
    assert error(moved) < 0.1 * error(plain)
    # equation 4, up to a common factor
    peaks, weights = search.observation.histogram.maxima, np.abs(WEIGHT).max(axis=1)
    expected = peaks**moved.alpha / weights ** (1 - moved.alpha)
    np.testing.assert_allclose(moved.smooth / moved.smooth[0], expected / expected[0], rtol=1e-4)


def test_bias_correction_takes_the_mean_error_away(search: GroupSearch) -> None:
    plan = search.best("max", smooth=True)
    narrow = replace(plan, scale=plan.scale * 0.6)  # always clips channel 9, whose mean is 90
    corrected = search.corrected(narrow)
    assert error(corrected) < 0.7 * error(narrow)


def test_widened_holds_other_text(search: GroupSearch) -> None:
    plan = search.best("max", smooth=True)
    assert plan.smooth is not None
    maxima = search.observation.histogram.maxima * 3
    wide = search.widened(plan, maxima)
    assert wide.scale * 127 == pytest.approx((maxima / plan.smooth).max(), rel=1e-4)
    assert search.widened(plan, maxima * 0).scale == pytest.approx(plan.scale)


def test_weight_scales_are_no_worse_than_the_largest_value(search: GroupSearch) -> None:
    number, even = NUMBERS["int8"], np.ones(64, np.float32)
    heavy = WEIGHT.copy()
    heavy[0] *= 6  # one weight of each channel far above the others
    found = weight_scales(heavy, even, number)
    peak = (np.abs(heavy).max(axis=0) / 127).astype(np.float32)

    def squared(scales: NDArray[Any]) -> NDArray[Any]:
        return np.square(heavy - number.fake(heavy, scales[None, :])).sum(axis=0)

    assert (squared(found) <= squared(peak) * 1.001).all()
    assert (found <= peak * 1.001).all()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("encoder.layer.0.attention.self.query", "query"),
        ("layers.3.self_attn.k_proj", "key"),
        ("transformer.layer.1.attention.v_lin", "value"),
        ("encoder.layer.0.attention.attn.o", "attention_output"),
        ("layers.0.attn.Wqkv", "qkv"),
        ("encoder.layer.0.attention.output.dense", "attention_output"),
        ("encoder.layer.0.output.dense", "ffn_out"),
        ("layers.0.mlp.Wi", "ffn_in"),
        ("layers.0.mlp.gate_proj", "ffn_in"),
        ("layers.0.mlp.down_proj", "ffn_out"),
        ("pooler.dense", "head"),
        ("classifier", "head"),
        ("node_MatMul_7", "other"),
    ],
)
def test_roles(name: str, role: str) -> None:
    assert role_of(name) == role
