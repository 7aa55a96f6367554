"""Exported graphs, and Q/DQ put into them by hand, for the tests that judge graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from build_engines.context import BuildContext
from build_engines.pipeline import build, make_context
from tritonforge.recipe import load_recipe

CHECKOUT = Path(__file__).parents[2]

# Wide enough for TensorRT's fused attention, which starts at 16 a head.
WIDE_HEADS: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
_OTHER_KEYS = {
    "distilbert": {"dim": 64, "n_heads": 4, "hidden_dim": 128},
    "qwen3": {**WIDE_HEADS, "head_dim": 16},
}


class ExportTiny(Protocol):
    """Exports a random model with heads of 16; the same arguments give the same file."""

    def __call__(self, architecture: str, task: str = "embedding") -> Path: ...


class InsertQdq(Protocol):
    """Puts Q/DQ around linear layers, with made-up ranges."""

    def __call__(
        self,
        model: onnx.ModelProto,
        *,
        scale_of: Callable[[NodeProto, int], float] = ...,
        shared: bool = True,
        smooth: bool = False,
        chosen: Callable[[NodeProto], bool] = ...,
    ) -> onnx.ModelProto: ...


@pytest.fixture(scope="session")
def tiny_export_context(
    tiny_model: Callable[..., Path],
    build_recipe: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., BuildContext]:
    """Context of a build that went as far as the export, by architecture and task."""

    @cache
    def make(architecture: str, task: str) -> BuildContext:
        folder = tiny_model(architecture, task, **_OTHER_KEYS.get(architecture, WIDE_HEADS))
        name = f"wide-{architecture}-{task}"
        built = build_recipe(into=tmp_path_factory.mktemp(name), until="export", name=name, model=str(folder))
        context: BuildContext = built.context
        return context

    return make


@pytest.fixture(scope="session")
def export_tiny(tiny_export_context: Callable[..., BuildContext]) -> ExportTiny:
    def make(architecture: str, task: str = "embedding") -> Path:
        return tiny_export_context(architecture, task).exported

    return make


@pytest.fixture(scope="session")
def minilm_onnx(tmp_path_factory: pytest.TempPathFactory, minilm_build_root: Path) -> Path:
    """The packed float32 export of the first recipe."""
    path = CHECKOUT / "recipes" / "minilm.yaml"
    context = make_context(load_recipe(path), path, tmp_path_factory.mktemp("unused"), minilm_build_root)
    build(context, "export")
    return context.exported


@pytest.fixture(scope="session")
def insert_qdq() -> InsertQdq:
    return _insert_qdq


def _insert_qdq(
    model: onnx.ModelProto,
    *,
    scale_of: Callable[[NodeProto, int], float] = lambda node, number: 0.05,
    shared: bool = True,
    smooth: bool = False,
    chosen: Callable[[NodeProto], bool] = lambda node: True,
) -> onnx.ModelProto:
    """Q/DQ on every chosen MatMul with a constant weight.

    Args:
        model: float32; a copy is changed.
        scale_of: Scale of the activation, by node and its number.
        shared: One Q/DQ for all layers that read a tensor, else one each.
        smooth: A Mul before each Q, as migration of outliers would leave where it cannot be folded.
        chosen: Which layers.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    done: dict[tuple[str, str], str] = {}
    extra: list[onnx.TensorProto] = [numpy_helper.from_array(np.zeros((), np.int8), "zero")]
    for number, node in enumerate(graph.node):
        if node.op_type == "MatMul" and node.input[1] in weights and chosen(node):
            weight = numpy_helper.to_array(weights[node.input[1]])
            key = (node.input[0], "" if shared else node.name)
            if key not in done:
                tag, source = f"{node.name}_x", node.input[0]
                extra.append(numpy_helper.from_array(np.float32(scale_of(node, number)), f"{tag}_scale"))
                if smooth:
                    factors = np.linspace(0.5, 2, weight.shape[0], dtype=np.float32)
                    extra.append(numpy_helper.from_array(factors, f"{tag}_factors"))
                    nodes.append(
                        helper.make_node("Mul", [source, f"{tag}_factors"], [f"{tag}_mul"], f"{tag}_mul")
                    )
                    source = f"{tag}_mul"
                quantizer = [f"{tag}_scale", "zero"]
                nodes.append(
                    helper.make_node("QuantizeLinear", [source, *quantizer], [f"{tag}_q"], f"{tag}_Q")
                )
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{tag}_q", *quantizer], [f"{tag}_dq"], f"{tag}_DQ")
                )
                done[key] = f"{tag}_dq"
            tag = f"{node.name}_w"
            scale = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
            extra.append(numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), f"{tag}_q"))
            extra.append(numpy_helper.from_array(scale, f"{tag}_scale"))
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{tag}_q", f"{tag}_scale"], [tag], f"{tag}_DQ", axis=1)
            )
            node.input[:] = [done[key], tag]
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in (*graph.initializer, *extra) if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return made
