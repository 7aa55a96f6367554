"""Rules on where Q/DQ stand: what decides between INT8 kernels and wasted work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from onnx import NodeProto, TensorProto

from build_engines.check.lint.graph import LintGraph, integer
from build_engines.check.lint.quantizers import quantized_type
from build_engines.check.lint.rules import Case, rule

_WEIGHT_ONLY = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}


@rule("weight-axis", "error", "scale the weight per output channel")
def weight_axis(case: Case) -> Iterator[tuple[str, str]]:
    """Scales along the summed axis cannot be taken out of the sum: the GEMM runs dequantized."""
    graph = case.graph
    for node in graph.nodes:
        found = graph.weight(node)
        if found is None or found.dequantizer is None or _is_weight_only(graph, node):
            continue
        scale = graph.array(found.dequantizer.input[1])
        rank = len(graph.constants[found.name].dims)
        if scale is None or scale.size == 1 or rank < 2:
            continue
        axis = integer(found.dequantizer, "axis", 1) % rank
        wanted = _output_axis(node, rank, found.turned)
        if axis != wanted:
            yield graph.label(node), f"weight scales lie on axis {axis}, output channels on axis {wanted}"


@rule("weight-per-tensor", "warning", "scale the weight per output channel: as fast, and more accurate")
def weight_per_tensor(case: Case) -> Iterator[tuple[str, str]]:
    """One scale for all channels is set by the largest of them."""
    graph = case.graph
    for node in graph.nodes:
        found = graph.weight(node)
        if found is None or found.dequantizer is None:
            continue
        scale = graph.array(found.dequantizer.input[1])
        outputs = max(graph.constants[found.name].dims, default=1)
        if scale is not None and scale.size == 1 and outputs > 1:
            yield graph.label(node), "one scale for the whole weight"


@rule("one-sided", "warning", "put Q/DQ on the activation and on the weight, or on neither")
def one_sided(case: Case) -> Iterator[tuple[str, str]]:
    """With one operand in INT8 the product is computed dequantized."""
    graph = case.graph
    for node in graph.nodes:
        found = graph.weight(node)
        if found is None or _is_weight_only(graph, node):
            continue
        activation, weight = graph.dequantizer(node.input[0]) is not None, found.dequantizer is not None
        if activation != weight:
            yield graph.label(node), f"only its {'activation' if activation else 'weight'} is quantized"


@rule("shared-input-scales", "warning", "quantize the shared input once, before it branches")
def shared_input_scales(case: Case) -> Iterator[tuple[str, str]]:
    """q, k and v merge into one GEMM only if they read their input with the same scale."""
    graph = case.graph
    groups: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for node in graph.linear_layers:
        source = graph.before_quantizer(node.input[0])
        dequantizer = graph.dequantizer(node.input[0])
        if dequantizer is None or source == node.input[0]:
            continue
        scale = graph.array(dequantizer.input[1])
        if scale is not None:
            groups[source].append((graph.label(node), scale.tobytes()))
    for source, members in groups.items():
        scales = {scale for _, scale in members}
        if len(scales) > 1:
            names = ", ".join(label for label, _ in members)
            yield members[0][0], f"{names} read {source} with {len(scales)} different scales"


@rule("matmul-output", "warning", "quantize inputs of linear layers only, not what MatMul gives")
def matmul_output(case: Case) -> Iterator[tuple[str, str]]:
    """Q/DQ before the bias rounds for nothing; on attention scores it breaks the fusion."""
    graph = case.graph
    scores = {attention.scores for attention in graph.attentions}
    for node in graph.nodes:
        if node.op_type != "MatMul" or not node.output:
            continue
        for quantizer in graph.consumers(node.output[0]):
            if quantizer.op_type != "QuantizeLinear":
                continue
            if graph.label(node) in scores:
                yield graph.label(quantizer), f"stands on the attention scores of {graph.label(node)}"
            elif graph.is_linear(node) and _meets_bias(graph, quantizer):
                yield graph.label(quantizer), f"stands between {graph.label(node)} and its bias"


@rule(
    "partial-attention",
    "warning",
    "quantize queries, keys, values, softmax and output, or none of the first four",
)
def partial_attention(case: Case) -> Iterator[tuple[str, str]]:
    """Attention is one kernel in FP16, or one in INT8; half and half it is five."""
    graph = case.graph
    for attention in graph.attentions:
        scores, weighted = graph.node(attention.scores), graph.node(attention.weighted)
        points = {
            "queries": graph.dequantizer(scores.input[0]) is not None,
            "keys": graph.dequantizer(scores.input[1]) is not None,
            "softmax": graph.dequantizer(weighted.input[0]) is not None,
            "values": graph.dequantizer(weighted.input[1]) is not None,
        }
        if any(points.values()):  # the output alone is the input of the next linear layer
            points["output"] = graph.quantized_later(weighted.output[0])
        if len(set(points.values())) > 1:
            done = ", ".join(name for name, quantized in points.items() if quantized)
            left = ", ".join(name for name, quantized in points.items() if not quantized)
            yield attention.softmax, f"{done} quantized, but not {left}"


def _is_weight_only(graph: LintGraph, node: NodeProto) -> bool:
    """Whether the weight's type is one that is only ever dequantized before the product."""
    found = graph.weight(node)
    dequantizer = found.dequantizer if found else None
    return dequantizer is not None and quantized_type(graph, dequantizer) in _WEIGHT_ONLY


def _output_axis(node: NodeProto, rank: int, turned: bool) -> int:
    """Axis of the output channels in the weight as it is stored."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    last_is_output = not (node.op_type == "Gemm" and integer(node, "transB", 0))
    return rank - 1 if last_is_output != turned else rank - 2


def _meets_bias(graph: LintGraph, quantizer: NodeProto) -> bool:
    """Whether what is dequantized again gets a constant added."""
    return any(
        reader.op_type == "Add" and any(name in graph.constants for name in reader.input)
        for dequantizer in graph.consumers(quantizer.output[0])
        for reader in graph.consumers(dequantizer.output[0])
    )
