"""Packed graphs of a few nodes that ONNX Runtime really runs, right ones and wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build_engines.spec import ModelSpec
from python_backends.runners import OnnxRuntimeRunner

VOCABULARY, WIDTH = 50, 8
TABLE = np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)

# What is done to the rows at the end of the graph: (nodes, whose input is "mean" and output "embedding").
_ENDS: dict[str, list[onnx.NodeProto]] = {
    "right": [helper.make_node("Identity", ["mean"], ["embedding"])],
    # As a careless normalization over the batch axis would do: a text's result depends on its neighbours.
    "centred": [
        helper.make_node("ReduceMean", ["mean", "axis0"], ["centre"], keepdims=1),
        helper.make_node("Mul", ["centre", "tenth"], ["part"]),
        helper.make_node("Sub", ["mean", "part"], ["embedding"]),
    ],
    # Right for one text at a time only.
    "reversed": [helper.make_node("Slice", ["mean", "last", "before", "axis0", "minus"], ["embedding"])],
    "random": [
        helper.make_node("RandomNormalLike", ["mean"], ["noise"], scale=0.01),
        helper.make_node("Add", ["mean", "noise"], ["embedding"]),
    ],
    "nan": [
        helper.make_node("Log", ["mean"], ["embedding"]),
    ],
    # Wrong by a little in every number, as low precision is.
    "rounded": [
        helper.make_node("Mul", ["mean", "sixteen"], ["large"]),
        helper.make_node("Round", ["large"], ["whole"]),
        helper.make_node("Div", ["whole", "sixteen"], ["embedding"]),
    ],
}


def graph(end: str) -> onnx.ModelProto:
    """Means of table rows over each sequence, and then what ``end`` does to them."""
    constants = {
        "table": TABLE.astype(np.float64),
        "zero_row": np.zeros((1, WIDTH)),
        "axis0": np.array([0]),
        "axis": np.array(0),
        "one": np.array([1]),
        "end": np.array([np.iinfo(np.int64).max]),
        "minus": np.array([-1]),
        "last": np.array([-1]),
        "before": np.array([np.iinfo(np.int64).min]),
        "tenth": np.float32(0.1),
        "sixteen": np.float32(16),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("CumSum", ["tokens", "axis"], ["sums"]),
        helper.make_node("Concat", ["zero_row", "sums"], ["running"], axis=0),
        helper.make_node("Gather", ["running", "cu_seqlens"], ["bounds"]),
        helper.make_node("Slice", ["bounds", "one", "end", "axis0"], ["upper"]),
        helper.make_node("Slice", ["bounds", "axis0", "minus", "axis0"], ["lower"]),
        helper.make_node("Sub", ["upper", "lower"], ["totals"]),
        helper.make_node("Slice", ["cu_seqlens", "one", "end", "axis0"], ["ends"]),
        helper.make_node("Slice", ["cu_seqlens", "axis0", "minus", "axis0"], ["starts"]),
        helper.make_node("Sub", ["ends", "starts"], ["lengths"]),
        helper.make_node("Cast", ["lengths"], ["counts"], to=TensorProto.DOUBLE),
        helper.make_node("Unsqueeze", ["counts", "one"], ["column"]),
        helper.make_node("Div", ["totals", "column"], ["exact"]),
        helper.make_node("Cast", ["exact"], ["mean"], to=TensorProto.FLOAT),
        *_ENDS[end],
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            end,
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["tokens"]),
                helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["bounds"]),
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["sequences", WIDTH])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def spec(max_length: int = 256) -> ModelSpec:
    """The spec of these graphs."""
    return ModelSpec("embedding", "mean", False, "softmax", "cls", (), WIDTH, max_length, VOCABULARY, 0)


def answers(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """What the right graph should give, float32 [sequences, WIDTH]."""
    return np.stack([TABLE[ids].astype(np.float64).mean(axis=0) for ids in sequences]).astype(np.float32)


@pytest.fixture(scope="session")
def graph_runner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OnnxRuntimeRunner]:
    folder = tmp_path_factory.mktemp("graphs")

    def load(end: str) -> OnnxRuntimeRunner:
        path: Path = folder / f"{end}.onnx"
        onnx.save(graph(end), path)
        return OnnxRuntimeRunner(path, threads=1)

    return load


@pytest.fixture
def toy_spec() -> ModelSpec:
    return spec()


@pytest.fixture
def toy_answers() -> Callable[[Sequence[NDArray[np.int32]]], NDArray[np.float32]]:
    return answers
