from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from build_engines.estimate.architecture import read_architecture
from build_engines.estimate.graph import Graph, evaluate, input_shape
from build_engines.estimate.layer import write_layers
from build_engines.estimate.memory import formula_peak
from build_engines.estimate.workload import Run
from build_engines.model_files import find_model
from python_backends.packing import flatten, pack

RUN = Run(np.array([5, 30, 11, 30, 2]), padded=False)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("s72", 7),
        ("s40 - 1", 3),
        ("s45*(s40 - 1)", 15),
        ("(s72 + 1)//s40", 2),
        ("Max(s45, s72)", 7),
        ("unknown", None),
        ("__import__('os')", None),
        ("s72.real", None),
        ("s72 +", None),
    ],
)
def test_dimensions_are_evaluated_and_nothing_else(expression: str, value: int | None) -> None:
    assert evaluate(expression, {"s72": 7, "s40": 4, "s45": 5}) == value


def small_graph(path: Path) -> Path:
    """Two linear layers with a view and a residual; sizes that can be worked out by hand."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "w1"], ["wide"]),
        helper.make_node("Reshape", ["wide", "shape"], ["view"]),
        helper.make_node("Gelu", ["view"], ["act"]),
        helper.make_node("MatMul", ["act", "w2"], ["narrow"]),
        helper.make_node("Add", ["narrow", "x"], ["out"]),
    ]
    weights = [
        helper.make_tensor("table", TensorProto.FLOAT, [10, 4], [0.0] * 40),
        helper.make_tensor("w1", TensorProto.FLOAT, [4, 16], [0.0] * 64),
        helper.make_tensor("w2", TensorProto.FLOAT, [16, 4], [0.0] * 64),
        helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 16]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["tokens"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["tokens", 4])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_liveness_by_hand(tmp_path: Path) -> None:
    tokens = RUN.tokens
    cost = Graph(small_graph(tmp_path / "small.onnx")).cost(RUN)
    # At Gelu: x (4 floats a token, for the residual), wide and act (16 each); the ids have gone.
    assert cost.peak_bytes == 4 * tokens * (4 + 16 + 16)
    assert cost.linear_flops == 2 * tokens * (4 * 16 + 16 * 4)
    assert cost.attention_flops == 0
    assert cost.unsized == 0


@pytest.fixture(scope="module")
def tiny(tiny_build: Callable[..., Any]) -> Any:
    return tiny_build("bert", "embedding").context


def test_every_shape_is_the_one_that_the_engine_computes(tiny: Any, tmp_path: Path) -> None:
    """Each node's output becomes an output of the graph, and ONNX Runtime says what shape it has."""
    model = onnx.load(tiny.exported)
    names = [name for node in model.graph.node for name in node.output]
    kept = {output.name for output in model.graph.output}
    types = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(types[name] for name in names if name in types and name not in kept)
    path = tmp_path / "all.onnx"
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = flatten([np.ones((1, int(n)), np.int32) for n in RUN.lengths])
    inputs = pack(batch, np.arange(batch.count))
    for name, array in inputs.items():
        assert input_shape(name, RUN) == array.shape
    wanted = [output.name for output in session.get_outputs()]
    taken = {value.name for value in session.get_inputs()}
    results = session.run(wanted, {name: array for name, array in inputs.items() if name in taken})
    shapes = Graph(tiny.exported)._shapes(RUN)
    assert len(wanted) > 50
    for name, result in zip(wanted, results, strict=True):
        assert shapes[name] == result.shape, name


def test_memory_grows_with_tokens_and_attention_with_the_square_of_the_length(tiny: Any) -> None:
    graph = Graph(tiny.exported)
    short, many, long = (
        graph.cost(Run(np.full(count, length), padded=False))
        for count, length in ((8, 16), (16, 16), (8, 32))
    )
    assert many.peak_bytes == pytest.approx(2 * short.peak_bytes, rel=0.1)
    assert many.attention_flops == pytest.approx(2 * short.attention_flops, rel=0.3)
    assert long.attention_flops > 3 * short.attention_flops
    assert many.linear_flops == 2 * short.linear_flops == long.linear_flops


def test_fused_attention_holds_no_scores(tiny: Any) -> None:
    run = Run(np.full(16, 64), padded=False)
    graph = Graph(tiny.exported)
    whole, fused = graph.cost(run), graph.cost(run, fused_attention=True)
    assert fused.peak_bytes < whole.peak_bytes / 2
    # Ids and offsets are whole numbers and stay as wide as they are.
    half = graph.cost(run, float_bytes=2).peak_bytes
    assert whole.peak_bytes / 2 <= half <= 0.6 * whole.peak_bytes


@pytest.mark.parametrize("fused", [False, True])
def test_the_formula_is_near_the_graph(tiny: Any, fused: bool) -> None:
    run = Run(np.full(16, 48), padded=False)
    architecture = read_architecture(tiny.model)
    graph = Graph(tiny.exported).cost(run, fused_attention=fused).peak_bytes
    assert formula_peak(architecture, run, fused_attention=fused) == pytest.approx(graph, rel=0.5)


def test_padded_inputs_are_rectangles(tiny_build: Callable[..., Any]) -> None:
    context = tiny_build("deberta-v2", "embedding").context
    assert context.layout == "padded"
    cost = Graph(context.exported).cost(Run(RUN.lengths, padded=True))
    assert cost.linear_flops > 0
    assert cost.peak_bytes > 0


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "distilbert"])
def test_the_calibration_layer_does_the_work_of_one_of_the_models_layers(
    architecture: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    sizes = read_architecture(find_model(str(tiny_model(architecture))))

    def multiply_adds(layers: int) -> int:
        write_layers(sizes, layers, tmp_path / "layers.onnx")
        graph = onnx.load(tmp_path / "layers.onnx").graph
        weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
        products = [node for node in graph.node if node.op_type == "MatMul"]
        return sum(weights.get(node.input[1], 0) for node in products)

    assert multiply_adds(0) == 0
    assert multiply_adds(2) == 2 * multiply_adds(1)
    assert multiply_adds(sizes.layers) == pytest.approx(sizes.linear_macs, rel=0.02)
