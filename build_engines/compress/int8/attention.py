"""The attention products, for ``quantization.attention``: all five points, or none.

TensorRT fuses INT8 attention only if Q, K, V, the softmax output and the attention output are all
quantized; leaving out any one of them loses the fusion. The fifth point is the input of the output
projection, so only attentions whose output projection is quantized are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from build_engines.compress.int8.graph import Graph
from build_engines.compress.int8.number import Number

_MOVES = {"Reshape", "Transpose", "Gather", "Unsqueeze", "Squeeze", "Identity"}
_BETWEEN = {"Add", "Mul", "Div", "Where", "Identity", "Cast", "Reshape"}


@dataclass(frozen=True)
class Attention:
    """One attention of a graph whose linear layers carry Q/DQ.

    Attributes:
        name: For the new nodes.
        operands: Node, position and tensor of query, key, probabilities and value.
    """

    name: str
    operands: Mapping[str, tuple[str, int, str]]


def find_attentions(graph: Graph) -> list[Attention]:
    """All softmax attentions whose context goes straight into a quantizer, in the order of the graph."""
    found = []
    for softmax in graph.model.graph.node:
        if softmax.op_type != "Softmax":
            continue
        context = graph.only_consumer(softmax.output[0])
        scores = _product_before(graph, softmax.input[0])
        if context is None or context.op_type != "MatMul" or context.input[0] != softmax.output[0]:
            continue
        quantizer = _quantizer_after(graph, context.output[0])
        if scores is None or quantizer is None or any(graph.is_constant(name) for name in scores.input):
            continue
        found.append(
            Attention(
                name=f"{quantizer.name.removesuffix('.input_quantize')}.attention",
                operands={
                    "query": (scores.name, 0, scores.input[0]),
                    "key": (scores.name, 1, scores.input[1]),
                    "probabilities": (context.name, 0, context.input[0]),
                    "value": (context.name, 1, context.input[1]),
                },
            )
        )
    return found


def quantize_attentions(
    model: onnx.ModelProto, attentions: list[Attention], ranges: Mapping[str, float], number: Number
) -> onnx.ModelProto:
    """A copy of the model with Q/DQ on the four operands of each attention.

    Args:
        model: With Q/DQ on its linear layers.
        attentions: Of :func:`find_attentions`.
        ranges: Range of each query, key and value tensor; probabilities have 1.
        number: Format.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = {node.name: node for node in copy.graph.node}
    before: dict[str, list[onnx.NodeProto]] = {}
    for attention in attentions:
        for kind, (node, place, tensor) in attention.operands.items():
            name = f"{attention.name}.{kind}"
            reach = 1.0 if kind == "probabilities" else ranges[tensor]
            scale = np.array(reach / number.limit, np.float32)
            copy.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
            copy.graph.initializer.append(
                helper.make_tensor(f"{name}_zero", number.onnx_type, [], bytes(1), raw=True)
            )
            small, again = f"{name}_quantize_output", f"{name}_dequantize_output"
            shared = [f"{name}_scale", f"{name}_zero"]
            before.setdefault(node, []).extend(
                [
                    helper.make_node("QuantizeLinear", [tensor, *shared], [small], name=f"{name}_quantize"),
                    helper.make_node(
                        "DequantizeLinear", [small, *shared], [again], name=f"{name}_dequantize"
                    ),
                ]
            )
            nodes[node].input[place] = again
    ordered = [new for node in copy.graph.node for new in (*before.get(node.name, []), node)]
    rebuilt = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del copy.graph.node[:]
    copy.graph.node.extend(rebuilt)
    return copy


def _product_before(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """The matrix product whose scores reach the softmax through scale and mask."""
    pending, seen = [tensor], set[str]()
    while pending:
        node = graph.producers.get(pending.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "MatMul":
            return node
        if node.op_type in _BETWEEN:
            pending += node.input[::-1]
    return None


def _quantizer_after(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """The quantizer that reads a tensor, through moves."""
    node = graph.only_consumer(tensor)
    while node is not None and node.op_type in _MOVES:
        node = graph.only_consumer(node.output[0])
    return node if node is not None and node.op_type == "QuantizeLinear" else None
