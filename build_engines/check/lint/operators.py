"""Rules on operators, types and names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from onnx import NodeProto, TensorProto
from onnx.defs import OpSchema, SchemaError, get_schema

from build_engines.check.lint.graph import QUANTIZE, LintGraph, type_name
from build_engines.check.lint.rules import Case, rule

_INTEGER_OPERATORS = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"}


@rule("integer-operator", "error", "quantize in QDQ format, with static ranges (precision: int8)")
def integer_operator(case: Case) -> Iterator[tuple[str, str]]:
    """TensorRT reads Q/DQ around float operators; it has neither dynamic INT8 nor the QOperator format."""
    for node in case.graph.nodes:
        if node.op_type in _INTEGER_OPERATORS and not node.domain:
            yield case.graph.label(node), f"operator {node.op_type}"


@rule("contrib-domain", "error", "export the plain graph; do not run ONNX Runtime's fusions on it first")
def contrib_domain(case: Case) -> Iterator[tuple[str, str]]:
    """Fused operators of ONNX Runtime are its own."""
    for node in case.graph.nodes:
        if node.domain not in {"", "ai.onnx"}:
            yield case.graph.label(node), f"operator {node.op_type} of domain {node.domain}"


@rule("mixed-types", "error", "put a Cast where the types meet")
def mixed_types(case: Case) -> Iterator[tuple[str, str]]:
    """Strong typing: all inputs that an operator wants of one type must be of one type."""
    graph = case.graph
    for node in graph.nodes:
        schema = _schema(graph, node)
        if schema is None or node.op_type in QUANTIZE:
            continue
        by_parameter: dict[str, set[int]] = defaultdict(set)
        formals = list(schema.inputs)
        for position, name in enumerate(node.input):
            formal = formals[min(position, len(formals) - 1)]
            many_types = (
                formal.option == OpSchema.FormalParameterOption.Variadic and not formal.is_homogeneous
            )
            kind = graph.types.get(name)
            if name and kind and not many_types and graph.dequantizer(name) is None:
                by_parameter[formal.type_str].add(kind)
        for kinds in by_parameter.values():
            if len(kinds) > 1:
                yield graph.label(node), f"{node.op_type} of {' and '.join(sorted(map(type_name, kinds)))}"


@rule("float32", "warning", "narrow the rest to FP16 or BF16 (to_half): without it attention is not fused")
def float32(case: Case) -> Iterator[tuple[str, str]]:
    """With FP32 as the float type around it, attention never became one kernel."""
    graph = case.graph
    products = {node for attention in graph.attentions for node in (attention.scores, attention.weighted)}
    wide = [
        node
        for node in graph.nodes
        if (graph.is_linear(node) or graph.label(node) in products)
        and TensorProto.FLOAT in {graph.types.get(name) for name in (*node.input, *node.output)}
    ]
    if wide:
        what = f"{len(wide)} matrix products in FLOAT" if len(wide) > 1 else "a matrix product in FLOAT"
        yield graph.label(wide[0]), f"{what}, this one first"


@rule("unnamed", "warning", "name every node, each differently: the engine's layer table refers to names")
def unnamed(case: Case) -> Iterator[tuple[str, str]]:
    """Without names nothing can be audited."""
    graph = case.graph
    for node in graph.nodes:
        if not node.name:
            yield graph.label(node), "it has no name"
    for name, count in Counter(node.name for node in graph.nodes if node.name).items():
        if count > 1:
            yield name, f"{count} nodes have this name"


@rule("double", "error", "export in float32 and narrow it")
def double(case: Case) -> Iterator[tuple[str, str]]:
    """TensorRT has no float64."""
    graph = case.graph
    for node in graph.nodes:
        if any(graph.types.get(name) == TensorProto.DOUBLE for name in (*node.input, *node.output)):
            yield graph.label(node), f"{node.op_type} in DOUBLE"


def _schema(graph: LintGraph, node: NodeProto) -> OpSchema | None:
    """The operator's definition; None for operators of other domains."""
    if node.domain not in {"", "ai.onnx"}:
        return None
    try:
        return get_schema(node.op_type, graph.opset.get("", 20), "")
    except SchemaError:
        return None
