"""Graphs of this project, compiled for real: SM80 (A100) and SM89 (L4, RTX 40)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from build_engines.check.lint import LintGraph, lint, quantized_linear_layers
from build_engines.check.rtx import AheadResult, Audit, audit, compile_ahead
from build_engines.check.samples import random_sequences
from build_engines.compress.half import to_half
from build_engines.compress.int8 import quantize_calibrated
from build_engines.context import BuildContext
from tritonforge.errors import EngineError
from tritonforge.recipe.sections import Calibration, Gate, Quantization

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT for RTX is not installed: pip install 'tritonforge[rtx]'",
)

BOTH = ("SM80", "SM89")
MINILM = {
    "input_ids": ((1,), (1024,), (4096,)),
    "cu_seqlens": ((2,), (33,), (65,)),
    "max_seqlen": ((1,), (64,), (512,)),
}
TINY = {
    "input_ids": ((1,), (256,), (1024,)),
    "cu_seqlens": ((2,), (9,), (33,)),
    "max_seqlen": ((1,), (32,), (64,)),
}


def judge(path: Path, profile: Any, capabilities: tuple[str, ...] = BOTH) -> tuple[AheadResult, list[Audit]]:
    result = compile_ahead(path, [profile], capabilities)
    result.require(path.name)
    graph = LintGraph.of(path)
    linear = quantized_linear_layers(graph)
    return result, [audit(build.table, linear, graph.attentions) for build in result.builds]


def told(path: Path, profile: Any) -> tuple[Any, ...]:
    return lint(
        path, profiles=[profile], triton_inputs=dict.fromkeys(profile, "TYPE_INT32"), max_batch_size=32
    )


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_packed_minilm(short_minilm: Path, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    to_half(short_minilm, path, dtype)
    assert told(path, MINILM) == ()
    result, audits = judge(path, MINILM)
    assert [build.capability for build in result.builds] == list(BOTH)
    for build, found in zip(result.builds, audits, strict=True):
        assert found.verdict == "pass", found.problems()
        assert (len(found.fused), len(found.merged)) == (2, 2)
        assert 0.9 < (build.plan_bytes or 0) / path.stat().st_size < 1.5


def test_packed_int8_minilm(
    minilm_onnx: Path, insert_qdq: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    path = quantized(insert_qdq(onnx.load(minilm_onnx)), tmp_path)
    assert told(path, MINILM) == ()
    for found in judge(path, MINILM)[1]:
        assert found.verdict == "pass", found.problems()
        assert (len(found.int8), len(found.fused), len(found.merged)) == (36, 6, 6)


def quantized(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "qdq.onnx")
    to_half(folder / "qdq.onnx", folder / "model.onnx", "fp16")
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("bert", "embedding"), ("modernbert", "classification"), ("qwen3", "embedding")],
)
def test_tiny_models(
    export_tiny: Callable[..., Path],
    insert_qdq: Callable[..., onnx.ModelProto],
    architecture: str,
    task: str,
    tmp_path: Path,
) -> None:
    path = quantized(insert_qdq(onnx.load(export_tiny(architecture, task))), tmp_path)
    assert told(path, TINY) == ()
    for found in judge(path, TINY)[1]:
        assert found.verdict == "pass", found.problems()
        assert found.int8
        assert found.fused


@pytest.mark.parametrize(("number", "attention"), [("int8", False), ("int8", True), ("fp8", False)])
def test_calibrated(
    tiny_export_context: Callable[..., BuildContext], number: Any, attention: bool, tmp_path: Path
) -> None:
    """Graphs of this project's own quantizer; what they are worth is judged elsewhere."""
    context = tiny_export_context("bert", "embedding")
    no_gate = Gate(mean_cosine=0, min_cosine=0)
    quantize_calibrated(
        context.exported,
        tmp_path / "qdq.onnx",
        random_sequences(context.settled, [8, 16, 24, 32] * 16),
        context.settled,
        layout="packed",
        quantization=Quantization(attention=attention, min_share=0),
        calibration=Calibration(samples=64, method="max"),
        gate=no_gate,
        number=number,
        threads=1,
    )
    path = tmp_path / "model.onnx"
    to_half(tmp_path / "qdq.onnx", path, "fp16")
    assert told(path, TINY) == ()
    result, (found,) = judge(path, TINY, ("SM89",))
    assert (len(found.fused), len(found.merged)) == (2, 2), found.problems()
    assert quantized_linear_layers(LintGraph.of(path))
    if number == "int8":
        assert found.verdict == "pass", found.problems()
    if attention:
        kernels = [layer for layer in result.builds[0].table.layers if layer.is_fused_attention]
        assert {layer.inputs[-3:] for layer in kernels} == {("Int8", "Int8", "Int8")}


def test_token_outputs(export_tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = ir.load(export_tiny("bert"))
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    tokens = norms[-1].outputs[0]
    model.graph.outputs[:] = [tokens]
    RemoveUnusedNodesPass()(model)
    ir.save(model, tmp_path / "tokens.onnx")
    to_half(tmp_path / "tokens.onnx", tmp_path / "model.onnx", "fp16")
    assert told(tmp_path / "model.onnx", TINY) == ()
    for found in judge(tmp_path / "model.onnx", TINY)[1]:
        assert found.verdict == "pass", found.problems()
        assert len(found.fused) == 2


# -- that the audit sees what goes wrong ----------------------------------------------------------------


def test_weight_scales_along_the_sum_waste_the_quantizers(
    export_tiny: Callable[..., Path], insert_qdq: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    model = insert_qdq(onnx.load(export_tiny("bert")))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is not None:
            node.attribute[0].i = 0
            scales = numpy_helper.from_array(np.full(weight.dims[0], 0.01, np.float32), node.input[1])
            constants[node.input[1]].CopyFrom(scales)
    path = quantized(model, tmp_path)
    assert {one.rule for one in lint(path)} == {"weight-axis"}
    _, (found,) = judge(path, TINY, ("SM89",))
    assert found.verdict == "fail"
    assert found.int8 == ()
    assert set(found.not_int8) == set(quantized_linear_layers(LintGraph.of(path)))


# -- that refusals are told ------------------------------------------------------------------------------


def test_a_profile_that_does_not_fit_is_told(export_tiny: Callable[..., Path]) -> None:
    wrong = {**TINY, "input_ids": ((512,), (256,), (1024,))}
    result = compile_ahead(export_tiny("bert"), [wrong], ["SM89"])
    assert not result.accepted
    assert "profile 0" in result.reasons()[0]


def test_a_forgotten_input_is_told(export_tiny: Callable[..., Path]) -> None:
    forgotten = {name: shapes for name, shapes in TINY.items() if name != "cu_seqlens"}
    result = compile_ahead(export_tiny("bert"), [forgotten], ["SM89"])
    with pytest.raises(EngineError, match="does not take the graph"):
        result.require("model.onnx")
    assert "cu_seqlens" in " ".join(result.reasons())


def test_errors_name_the_node(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("DFT", ["x"], ["y"], "the_transform")],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    result = compile_ahead(tmp_path / "model.onnx", [{}], ["SM89"])
    assert [(one.node, one.operator) for one in result.parser_errors] == [("the_transform", "DFT")]
    with pytest.raises(EngineError, match="the_transform"):
        result.require("model.onnx")


def test_a_capability_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not compile for SM90") as error:
        compile_ahead(tmp_path / "model.onnx", [], ["SM90"])
    assert "SM89" in str(error.value.mend)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such file"):
        compile_ahead(tmp_path / "model.onnx", [TINY])


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    assert compile_ahead(tmp_path / "model.onnx", [TINY]).parser_errors
