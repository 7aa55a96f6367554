"""The whole quantizer on tiny models of many architectures, run for real in ONNX Runtime and OpenVINO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from build_engines.check.compare import cosines
from build_engines.check.execute import run_sequences
from build_engines.check.lint import lint
from build_engines.compress.int8 import QuantizationReport, quantize_calibrated
from build_engines.compress.int8.graph import Graph, group_by_source
from python_backends.runners import OnnxRuntimeRunner, OpenVinoRunner
from tritonforge.errors import CalibrationError
from tritonforge.recipe.sections import Calibration, Gate, Quantization

ANY = Gate(mean_cosine=0, min_cosine=0)


def quantize(
    export: Any, target: Path, *, count: int = 60, gate: Gate = ANY, **settings: Any
) -> QuantizationReport:
    number = settings.pop("number", "int8")
    calibration = {key: settings.pop(key) for key in ("method", "seed", "samples") if key in settings}
    return quantize_calibrated(
        export.path,
        target,
        export.sequences(count),
        export.spec,
        layout=export.layout,
        quantization=Quantization(**settings),
        calibration=Calibration(**calibration),
        gate=gate,
        number=number,
        token_budget=512,
        threads=1,
    )


def agreement(export: Any, target: Path, runner: Any = OnnxRuntimeRunner) -> NDArray[Any]:
    other = export.sequences(40, seed=9)
    exact, small = (
        run_sequences(kind(path, 1), export.spec, export.layout, other, 512)
        for kind, path in ((OnnxRuntimeRunner, export.path), (runner, target))
    )
    return cosines(small, exact)


@pytest.fixture(scope="module")
def bert(export: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, QuantizationReport]:
    """Bert, its quantized graph with nothing but defaults, and what was told."""
    tiny, path = export("bert"), tmp_path_factory.mktemp("bert") / "model.onnx"
    return tiny, path, quantize(tiny, path)


# One of each kind of graph: packed, with a position bias, with a joined qkv, with shared weights, without
# biases, padded. Names of other families are in test_search.py.
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "modernbert", "albert", "qwen3", "deberta-v2"])
def test_every_architecture(
    export: Any, bert: tuple[Any, Path, QuantizationReport], tmp_path: Path, architecture: str
) -> None:
    if architecture == "bert":
        tiny, path, report = bert
    else:
        tiny, path = export(architecture), tmp_path / "model.onnx"
        report = quantize(tiny, path)
    assert tiny.layout == ("padded" if architecture == "deberta-v2" else "packed")
    assert report.share == pytest.approx(1)
    assert all(row.role != "other" for row in report.layers) or architecture in {"deberta-v2", "albert"}
    assert len({row.name for row in report.layers}) == len(report.layers)
    assert agreement(tiny, path).mean() > 0.98
    assert agreement(tiny, path, OpenVinoRunner).mean() > 0.98
    assert not [finding for finding in lint(path) if finding.rule not in {"float32"}]
    json.dumps(report.as_dict())


def test_rules_of_placement(bert: tuple[Any, Path, QuantizationReport]) -> None:
    tiny, path, report = bert
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 20
    nodes = {node.name: node for node in model.graph.node}
    producers = {name: node for node in model.graph.node for name in node.output}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == len(group_by_source(Graph.load(tiny.path).linears)) == 8  # one for q, k and v
    for row in report.layers:
        node = nodes[row.node]
        activation, weight = producers[node.input[0]], producers[node.input[1]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert values[weight.input[0]].data_type == TensorProto.INT8
        scale = numpy_helper.to_array(values[weight.input[1]])
        axis = next(a.i for a in weight.attribute if a.name == "axis")
        assert scale.shape == (values[weight.input[0]].dims[axis],)
        assert (scale > 0).all()
        assert np.abs(numpy_helper.to_array(values[weight.input[0]])).max() <= 127
        assert numpy_helper.to_array(values[activation.input[1]]).shape == ()
        assert not numpy_helper.to_array(values[activation.input[2]]).any()
        assert weight.name == f"{row.name}.weight_dequantize"
    queries = [row for row in report.layers if row.role in {"query", "key", "value"}]
    assert len({nodes[row.node].input[0] for row in queries}) == 2  # one tensor for each of the two layers
    assert {row.migration for row in report.layers if row.role == "attention_output"} <= {"value", ""}


def test_classification_leaves_the_head(export: Any, tmp_path: Path) -> None:
    tiny = export("bert", "classification")
    report = quantize(tiny, tmp_path / "model.onnx")
    heads = [row for row in report.layers if row.role == "head"]
    assert heads
    assert all(row.precision == "float" and "whole texts" in row.reason for row in heads)
    assert report.share > 0.9
    assert agreement(tiny, tmp_path / "model.onnx").mean() > 0.98


def test_fp8(export: Any, tmp_path: Path) -> None:
    tiny = export("bert")
    report = quantize(tiny, tmp_path / "model.onnx", number="fp8")
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert TensorProto.FLOAT8E4M3FN in kinds
    assert TensorProto.INT8 not in kinds
    assert report.layers[0].precision == "fp8"
    assert agreement(tiny, tmp_path / "model.onnx").mean() > 0.97


def test_attention(export: Any, tmp_path: Path) -> None:
    tiny = export("bert")
    report = quantize(tiny, tmp_path / "model.onnx", attention=True)
    names = {node.name for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert report.attention == 2
    for kind in ("query", "key", "probabilities", "value"):
        assert f"encoder.layer.0.attention.output.dense.attention.{kind}_quantize" in names
    assert not [f for f in lint(tmp_path / "model.onnx") if "attention" in f.rule]
    assert agreement(tiny, tmp_path / "model.onnx").mean() > 0.97


def test_same_seed_same_file(bert: tuple[Any, Path, QuantizationReport], tmp_path: Path) -> None:
    tiny, path, _ = bert
    quantize(tiny, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


@pytest.mark.skipif(
    "vnni" not in Path("/proc/cpuinfo").read_text(),
    reason="without VNNI, ONNX Runtime's INT8 saturates: that costs more than leaving layers out wins",
)
def test_gate_takes_layers_out(bert: tuple[Any, Path, QuantizationReport], tmp_path: Path) -> None:
    tiny, _, free = bert
    # without the headroom that a lax gate allows, the error is about a quarter
    gate = Gate(mean_cosine=1 - (1 - free.mean_cosine) * 0.2, min_cosine=0)
    report = quantize(tiny, tmp_path / "less.onnx", gate=gate, min_share=0.1)
    left = [row for row in report.layers if row.precision == "float"]
    assert left
    assert all(row.reason == "sensitive" for row in left)
    assert report.share < 1
    assert report.mean_cosine >= gate.mean_cosine
    assert [len(point.left) for point in report.curve] == list(range(len(report.curve)))


def test_gate_refuses(bert: tuple[Any, Path, QuantizationReport], tmp_path: Path) -> None:
    tiny, _, _ = bert
    with pytest.raises(CalibrationError, match=r"Most sensitive: .*encoder\.layer") as caught:
        quantize(tiny, tmp_path / "no.onnx", gate=Gate(mean_cosine=0.999999, min_cosine=0.99999))
    assert "min_share" in str(caught.value.mend)
    assert not (tmp_path / "no.onnx").exists()
    assert not list(tmp_path.glob(".no*"))


def test_keep(export: Any, tmp_path: Path) -> None:
    tiny = export("bert")
    report = quantize(tiny, tmp_path / "m.onnx", keep=["*layer.1.output*", "nowhere*"], min_share=0.5)
    kept = [row for row in report.layers if row.precision == "float"]
    assert [row.name for row in kept] == ["encoder.layer.1.output.dense"]
    assert any("nowhere*" in note for note in report.notes)
    with pytest.raises(CalibrationError, match="may be quantized"):
        quantize(tiny, tmp_path / "n.onnx", keep=["*"])


def test_poor_text(export: Any, tmp_path: Path) -> None:
    tiny = export("bert")
    with pytest.raises(CalibrationError, match="no calibration text"):
        quantize(tiny, tmp_path / "m.onnx", count=0)
    for count in (1, 2):
        report = quantize(tiny, tmp_path / "m.onnx", count=count)
        assert any(f"only {count} calibration sequences" in note for note in report.notes)
    report = quantize(tiny, tmp_path / "m.onnx", count=40, samples=100)
    assert any("40 calibration sequences, of 100" in note for note in report.notes)


def test_not_onnx_and_quantized_twice(bert: tuple[Any, Path, QuantizationReport], tmp_path: Path) -> None:
    tiny, path, _ = bert
    again = type(tiny)(path, tiny.spec, tiny.layout)
    with pytest.raises(CalibrationError, match="already"):
        quantize(again, tmp_path / "n.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(CalibrationError, match="ONNX"):
        quantize(type(tiny)(tmp_path / "bad.onnx", tiny.spec, tiny.layout), tmp_path / "n.onnx")
