"""Rules on single Q/DQ nodes: zero points, scales, biases."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from build_engines.check.lint.graph import FLOATS, LintGraph, integer, type_name
from build_engines.check.lint.rules import Case, rule

_FINE = {
    TensorProto.INT8,
    TensorProto.INT4,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT4E2M1,
}


def quantized_type(graph: LintGraph, node: NodeProto) -> int:
    """The integer side's type of a Q or DQ; what ONNX says where nothing is written."""
    if node.op_type == "DequantizeLinear":
        return graph.types.get(node.input[0], 0)
    if len(node.input) > 2 and node.input[2]:
        return graph.types.get(node.input[2], 0)
    return integer(node, "output_dtype", 0) or TensorProto.UINT8


@rule("zero-point", "error", "quantize symmetrically: signed type, zero point 0, written into the graph")
def zero_point(case: Case) -> Iterator[tuple[str, str]]:
    """TensorRT knows symmetric quantization only, and reads uint8 as int8."""
    graph = case.graph
    for node in graph.quantizers:
        label = graph.label(node)
        kind = quantized_type(graph, node)
        given = node.input[2] if len(node.input) > 2 else ""
        if kind == TensorProto.INT32:
            continue  # a bias: its own rule
        if given:
            values = graph.array(given)
            if values is None:
                yield label, "its zero point is not a constant"
                continue
            if np.any(values.astype(np.float32) != 0):
                yield label, f"zero point {values.reshape(-1)[0]} is not 0"
                continue
        if kind and kind not in _FINE:
            implied = "" if given else " (what ONNX takes where no zero point is given)"
            yield label, f"quantized type {type_name(kind)}{implied}, which TensorRT reads as INT8 or refuses"


@rule("scale-value", "error", "calibrate again: a scale is a positive, finite constant")
def scale_value(case: Case) -> Iterator[tuple[str, str]]:
    """A scale of 0 divides by zero; FP16 makes 0 of what is below 3e-8."""
    graph = case.graph
    for node in graph.quantizers:
        values = graph.array(node.input[1])
        if values is None:
            yield graph.label(node), "its scale is not a constant"
        elif not np.all(np.isfinite(scales := values.astype(np.float32)) & (scales > 0)):
            yield graph.label(node), "its scale is zero, negative or not finite"


@rule("bias-int32", "error", "leave the bias in float (ONNX Runtime: QuantizeBias=False)")
def bias_int32(case: Case) -> Iterator[tuple[str, str]]:
    """ONNX Runtime quantizes biases to int32 by default; TensorRT dequantizes no int32."""
    graph = case.graph
    for node in graph.quantizers:
        if node.op_type == "DequantizeLinear" and quantized_type(graph, node) == TensorProto.INT32:
            yield graph.label(node), "dequantizes INT32"


@rule("scale-type", "error", "give the scale the float type of the activations (to_half does)")
def scale_type(case: Case) -> Iterator[tuple[str, str]]:
    """In a strongly typed network the scale says what a DQ gives, and must match what a Q takes."""
    graph, types = case.graph, case.graph.types
    for node in graph.quantizers:
        scale = types.get(node.input[1])
        if node.op_type == "QuantizeLinear":
            taken = types.get(node.input[0])
            if taken in FLOATS and scale in FLOATS and taken != scale:
                yield graph.label(node), f"scale {type_name(scale)} on {type_name(taken)} activations"
            continue
        gives = integer(node, "output_dtype", 0) or scale
        others = {
            types.get(name)
            for reader in graph.consumers(node.output[0])
            if reader.op_type in {"MatMul", "Gemm", "Conv", "Add", "Mul"}
            for name in reader.input
            if name != node.output[0] and graph.dequantizer(name) is None
        }
        clash = {other for other in others if other in FLOATS and other != gives}
        if gives in FLOATS and clash:
            partner = type_name(next(iter(clash)))
            yield graph.label(node), f"gives {type_name(gives)}, and meets {partner} in the next operator"
