"""What keeps attention in one kernel: two layers of packed INT8 MiniLM, varied one thing at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from build_engines.check.lint import LintGraph, lint, quantized_linear_layers
from build_engines.check.rtx import audit, compile_ahead
from build_engines.compress.half import to_half

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT for RTX is not installed: pip install 'tritonforge[rtx]'",
)

PROFILE = {
    "input_ids": ((1,), (1024,), (4096,)),
    "cu_seqlens": ((2,), (33,), (65,)),
    "max_seqlen": ((1,), (64,), (512,)),
}
LAYERS = 2

Insert = Callable[..., ModelProto]


def plain(model: ModelProto, insert: Insert) -> ModelProto:
    return insert(model)


def migrated(model: ModelProto, insert: Insert) -> ModelProto:
    return insert(model, smooth=True)


def one_pair_each(model: ModelProto, insert: Insert) -> ModelProto:
    return insert(model, shared=False)


def scales_differ(model: ModelProto, insert: Insert) -> ModelProto:
    return insert(model, shared=False, scale_of=lambda node, number: 0.05 + number / 1000)


def projections_in_float(model: ModelProto, insert: Insert) -> ModelProto:
    kept = {name for attention in LintGraph(model).attentions for name in attention.projections}
    return insert(model, chosen=lambda node: node.name not in kept)


def attention_output_in_float(model: ModelProto, insert: Insert) -> ModelProto:
    graph = LintGraph(model)
    kept = {reader for attention in graph.attentions for reader in readers(graph, attention.weighted)}
    return insert(model, chosen=lambda node: node.name not in kept)


def readers(graph: LintGraph, name: str) -> set[str]:
    """The linear layers that read what a node gives, moved at most."""
    todo, found = [graph.node(name).output[0]], set()
    while todo:
        for node in graph.consumers(todo.pop()):
            if graph.is_linear(node):
                found.add(node.name)
            else:
                todo.extend(node.output)
    return found


def on_operands(*points: str) -> Callable[[ModelProto, Insert], ModelProto]:
    """Q/DQ on operands of the attention products, or on the scores."""

    def change(model: ModelProto, insert: Insert) -> ModelProto:
        made = insert(model)
        graph = LintGraph(made)
        for attention in graph.attentions:
            scores, weighted = graph.node(attention.scores), graph.node(attention.weighted)
            (after,) = graph.consumers(scores.output[0])
            places: dict[str, tuple[NodeProto, int, float]] = {
                "queries": (scores, 0, 0.05),
                "keys": (scores, 1, 0.05),
                "values": (weighted, 1, 0.05),
                "softmax": (weighted, 0, 1 / 127),
                "scores": (after, list(after.input).index(scores.output[0]), 0.05),
            }
            for point in points:
                quantize_input(made, *places[point])
        return made

    return change


def quantize_input(model: ModelProto, node: NodeProto, position: int, scale: float) -> None:
    """Put Q/DQ on one input of a node."""
    tag, source = f"{node.name}_{position}", node.input[position]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), f"{tag}_scale"))
    pair = [f"{tag}_scale", "zero"]
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [source, *pair], [f"{tag}_q"], f"{tag}_Q"))
    model.graph.node.insert(
        at + 1, helper.make_node("DequantizeLinear", [f"{tag}_q", *pair], [f"{tag}_dq"], f"{tag}_DQ")
    )
    node.input[position] = f"{tag}_dq"


def scaled_behind(model: ModelProto, insert: Insert) -> ModelProto:
    """Move the factor 1/sqrt(d) from the queries to the scores."""
    made = insert(model)
    graph = LintGraph(made)
    for attention in graph.attentions:
        scores = graph.node(attention.scores)
        factor = graph.producers[scores.input[0]]
        while factor.op_type != "Mul":
            factor = graph.producers[factor.input[0]]
        source, constant = factor.input
        for reader in graph.consumers(factor.output[0]):
            reader.input[:] = [source if name == factor.output[0] else name for name in reader.input]
        made.graph.node.remove(factor)
        given = scores.output[0]
        scores.output[0] = f"{given}_raw"
        at = list(made.graph.node).index(scores) + 1
        made.graph.node.insert(
            at, helper.make_node("Mul", [f"{given}_raw", constant], [given], f"{given}_scaled")
        )
    return made


# Name, change, whether narrowed, INT8 layers, fused, merged, output type of the attention kernels, rules.
ROWS: list[tuple[str, Any, bool, int, int, int, str | None, set[str]]] = [
    ("float32", plain, False, 12, 0, 2, None, {"float32"}),
    ("float16", plain, True, 12, 2, 2, "Int8", set()),
    ("a Mul before every Q", migrated, True, 12, 2, 2, "Half", set()),
    ("a pair each, one scale", one_pair_each, True, 12, 2, 2, "Int8", set()),
    ("a pair each, different scales", scales_differ, True, 12, 2, 1, "Int8", {"shared-input-scales"}),
    ("q, k, v in float", projections_in_float, True, 6, 2, 2, "Int8", set()),
    ("attention output in float", attention_output_in_float, True, 10, 2, 2, "Half", set()),
    ("on the scores", on_operands("scores"), True, 12, 2, 2, "Int8", {"matmul-output"}),
    ("all five", on_operands("queries", "keys", "values", "softmax"), True, 12, 2, 2, "Int8", set()),
    ("inputs", on_operands("queries", "keys", "values"), True, 12, 0, 2, None, {"partial-attention"}),
    ("softmax", on_operands("softmax"), True, 12, 0, 2, None, {"partial-attention"}),
    ("scale behind", scaled_behind, True, 12, 2, 2, "Int8", set()),
]


@pytest.mark.parametrize(
    ("change", "narrow", "int8", "fused", "merged", "gives", "rules"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_variations_of_minilm(
    short_minilm: Path,
    insert_qdq: Insert,
    change: Callable[[ModelProto, Insert], ModelProto],
    narrow: bool,
    int8: int,
    fused: int,
    merged: int,
    gives: str | None,
    rules: set[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(change(onnx.load(short_minilm), insert_qdq), path)
    if narrow:
        to_half(path, path, "fp16")
    assert {one.rule for one in lint(path, profiles=[PROFILE])} == rules
    result = compile_ahead(path, [PROFILE], ["SM89"])
    result.require(path.name)
    graph = LintGraph.of(path)
    (build,) = result.builds
    found = audit(build.table, quantized_linear_layers(graph), graph.attentions)
    assert (len(found.int8), found.not_int8) == (int8, ())
    assert (len(found.fused), len(found.not_fused)) == (fused, LAYERS - fused)
    assert (len(found.merged), len(found.not_merged)) == (merged, LAYERS - merged)
    assert found.verdict == ("pass" if (fused, merged) == (LAYERS, LAYERS) else "fail")
    kernels = [layer for layer in build.table.layers if layer.is_fused_attention]
    assert {layer.outputs for layer in kernels} == ({(gives,)} if gives else set())
