"""An encoder of the model's sizes with few layers and random weights: what the calibration measures.

Takes the packed graph's inputs and computes what an exported encoder computes: embedding lookup, layers
with packed attention that gathers to a rectangle and back, mean pooling. It is written straight to ONNX,
so that nothing has to be exported, or built, to calibrate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from build_engines.estimate.architecture import Architecture
from python_backends.openvino_graph import FROM_RECTANGLE, KEY_BIAS, SEQUENCE_OF, TO_RECTANGLE

OPSET = 20
IR_VERSION = 10
VOCABULARY = 1024  # lookup costs the same in a small table
OUTPUT = "embedding"


class _Writer:
    """Collects nodes and weights."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output, and give the output's name."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: npt.ArrayLike) -> str:
        """Store a constant; Python numbers become int64 or float32."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"c_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape: int) -> str:
        """Store random weights that keep activations near unit size."""
        return self.constant((self._rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32))

    def linear(self, states: str, inputs: int, outputs: int) -> str:
        """A linear layer with bias, as the exporter writes it."""
        product = self.op("MatMul", states, self.random(inputs, outputs))
        return self.op("Add", product, self.constant(np.zeros(outputs, np.float32)))

    def norm(self, states: str, width: int) -> str:
        """Layer norm."""
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.op("LayerNormalization", states, self.constant(ones), self.constant(zeros), axis=-1)


def write_layers(architecture: Architecture, layers: int, path: Path) -> None:
    """Write the graph.

    Args:
        architecture: Sizes of the model.
        layers: How many of its layers; 0 leaves lookup and pooling.
        path: The ONNX file to write.
    """
    w = _Writer()
    hidden = architecture.hidden
    zero, one = w.constant([0]), w.constant([1])
    scalar_zero, scalar_one = w.constant(np.int64(0)), w.constant(np.int64(1))
    tokens = w.op("Squeeze", w.op("Shape", "input_ids"), zero)
    longest = w.op("Squeeze", w.op("Shape", "max_seqlen"), zero)
    # Sliced before it is cast: OpenVINO drops a bare cast of an input and names the input after its result.
    first = w.op("Slice", "cu_seqlens", zero, w.constant([-1]), zero)
    starts = w.op("Cast", first, to=TensorProto.INT64)
    second = w.op("Slice", "cu_seqlens", one, w.constant([np.iinfo(np.int64).max]), zero)
    ends = w.op("Cast", second, to=TensorProto.INT64)
    token = w.op("Range", scalar_zero, tokens, scalar_one)
    column = w.op("Range", scalar_zero, longest, scalar_one)
    past = w.op("GreaterOrEqual", w.op("Unsqueeze", token, one), w.op("Unsqueeze", ends, zero))
    past_int = w.op("Cast", past, to=TensorProto.INT64)
    sequence_of = w.op("ReduceSum", past_int, one, name=SEQUENCE_OF, keepdims=0)
    position_of = w.op("Sub", token, w.op("Gather", starts, sequence_of))
    cells = w.op("Add", w.op("Unsqueeze", starts, one), w.op("Unsqueeze", column, zero))
    last = w.op("Sub", tokens, scalar_one)
    to_rectangle = w.op("Reshape", w.op("Min", cells, last), w.constant([-1]), name=TO_RECTANGLE)
    from_rectangle = w.op("Add", w.op("Mul", sequence_of, longest), position_of, name=FROM_RECTANGLE)
    lengths = w.op("Sub", ends, starts)
    inside = w.op("Less", w.op("Unsqueeze", column, zero), w.op("Unsqueeze", lengths, one))
    bias = w.op("Where", inside, w.constant(np.float32(0)), w.constant(np.float32(-10000)))
    bias = w.op("Unsqueeze", bias, w.constant([1, 2]), name=KEY_BIAS)
    rectangle_shape = w.op(
        "Concat",
        w.constant([-1]),
        w.op("Unsqueeze", longest, zero),
        w.constant([architecture.heads, architecture.head_dim]),
        axis=0,
    )

    states = w.norm(w.op("Gather", w.random(VOCABULARY, hidden), "input_ids"), hidden)
    width = architecture.heads * architecture.head_dim

    def heads_of(projected: str, perm: list[int]) -> str:
        cells = w.op("Gather", projected, to_rectangle)
        return w.op("Transpose", w.op("Reshape", cells, rectangle_shape), perm=perm)

    for _ in range(layers):
        query = w.op(
            "Mul", w.linear(states, hidden, width), w.constant(np.float32(architecture.head_dim**-0.5))
        )
        key, value = w.linear(states, hidden, width), w.linear(states, hidden, width)
        scores = w.op("MatMul", heads_of(query, [0, 2, 1, 3]), heads_of(key, [0, 2, 3, 1]))
        weights = w.op("Softmax", w.op("Add", scores, bias), axis=-1)
        context = w.op("Transpose", w.op("MatMul", weights, heads_of(value, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        flat = w.op("Reshape", context, w.constant([-1, width]))
        attended = w.linear(w.op("Gather", flat, from_rectangle), width, hidden)
        states = w.norm(w.op("Add", attended, states), hidden)
        wide = w.op("Gelu", w.linear(states, hidden, architecture.intermediate))
        if architecture.gated:
            wide = w.op("Mul", wide, w.linear(states, hidden, architecture.intermediate))
        states = w.norm(w.op("Add", w.linear(wide, architecture.intermediate, hidden), states), hidden)

    sequences = w.op("Squeeze", w.op("Shape", starts), zero)
    sequence = w.op("Range", scalar_zero, sequences, scalar_one)
    member = w.op("Equal", w.op("Unsqueeze", sequence, one), w.op("Unsqueeze", sequence_of, zero))
    summed = w.op("MatMul", w.op("Cast", member, to=TensorProto.FLOAT), states)
    counts = w.op("Cast", w.op("Unsqueeze", lengths, one), to=TensorProto.FLOAT)
    w.nodes.append(helper.make_node("Div", [summed, counts], [OUTPUT], name=OUTPUT))
    graph = helper.make_graph(
        w.nodes,
        f"{layers} layers",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["tokens"]),
            helper.make_tensor_value_info("cu_seqlens", TensorProto.INT32, ["sequences_1"]),
            helper.make_tensor_value_info("max_seqlen", TensorProto.INT32, ["longest"]),
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["sequences", hidden])],
        w.weights,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tritonforge",
    )
    onnx.save(model, path)
