"""The whole way of the engine, on a tiny model: narrowed, linted, built, identified, laid out for Triton.

TensorRT for RTX stands where TensorRT would: same API, a real parser and compiler, and no GPU. What needs
one (inspector, loading, running) is in ``tests/gpu``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.check.rtx import parse_layers
from build_engines.engines import CompiledEngine, CompileRequest
from build_engines.engines.tensorrt import TensorRtEngine
from build_engines.engines.tensorrt import engine as module
from build_engines.engines.tensorrt.identity import Gpu, Host, PlanIdentity, check
from build_engines.engines.tensorrt.module import load_tensorrt
from build_engines.repository.assemble import assemble
from tritonforge.errors import EngineError, RepositoryError
from tritonforge.recipe import Precision, Recipe

ADA = Gpu("NVIDIA L4", "8.9", "580.95")
ENGINE = TensorRtEngine()


@pytest.fixture
def request_for(tiny_build: Callable[[str, str], Any], tmp_path: Path) -> Callable[..., CompileRequest]:
    """A request for a tiny model that was exported for other tests."""

    def make(task: str = "embedding", precision: Precision = "fp16", **keys: Any) -> CompileRequest:
        context = tiny_build("bert", task).context
        folders = {name: tmp_path / f"{task}-{precision}" / name for name in ("folder", "notes", "cache")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        recipe = Recipe.model_validate({"name": "toy", "model": "toy", "precision": precision, **keys})
        return CompileRequest(context.exported, precision, context.layout, context.settled, recipe, **folders)

    return make


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("preset", ["latency", "throughput"])
def test_compile(
    rtx: ModuleType, request_for: Callable[..., CompileRequest], precision: Precision, preset: str
) -> None:
    request = request_for(precision=precision, tensorrt={"preset": preset})
    assert ENGINE.compile_with(rtx, ADA, request) == "model.plan"
    assert {path.name for path in request.folder.iterdir()} == {"model.plan", "identity.json"}
    identity = PlanIdentity.read(request.folder / "identity.json")
    assert (identity.tensorrt, identity.gpu, identity.compute_capability) == (
        rtx.__version__,
        "NVIDIA L4",
        "8.9",
    )
    assert identity.precision == precision
    assert len(identity.profiles) == {"latency": 2, "throughput": 1}[preset]
    assert identity.profiles == json.loads((request.notes / "figures.json").read_text())["profiles"]
    assert "Layers:" in (request.notes / "build.log").read_text()
    findings = json.loads((request.notes / "figures.json").read_text())["lint"]
    assert not [finding for finding in findings if finding["severity"] == "error"]
    if precision != "fp32":
        graph = onnx.load(request.notes / "strongly_typed.onnx")
        kinds = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 2}
        assert kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
        assert [value.type.tensor_type.elem_type for value in graph.graph.output] == [onnx.TensorProto.FLOAT]


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
def test_a_graph_with_qdq_becomes_int8_among_fp16(
    rtx: ModuleType,
    insert_qdq: Callable[..., Any],
    request_for: Callable[..., CompileRequest],
    tmp_path: Path,
) -> None:
    request = request_for(precision="int8")
    quantized = tmp_path / "quantized.onnx"
    onnx.save(insert_qdq(onnx.load(request.onnx_path)), quantized)
    request = dataclasses.replace(request, onnx_path=quantized)
    ENGINE.compile_with(rtx, ADA, request)
    assert PlanIdentity.read(request.folder / "identity.json").precision == "int8"
    log = (request.notes / "build.log").read_text()
    table = parse_layers(log[log.index("Layers:") :].split("\n[", 1)[0])
    assert sum(layer.is_int8_gemm for layer in table.layers) >= 2 * 4  # two layers: qkv, output, up, down


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
def test_the_input_that_is_only_a_shape_stays_an_input(
    rtx: ModuleType, request_for: Callable[..., CompileRequest]
) -> None:
    """Triton binds it; and it must be no shape tensor, for which the backend wants values in the request."""
    request = request_for()
    graph, _ = ENGINE.prepare(request, ADA)
    logger = rtx.Logger(rtx.Logger.ERROR)
    network = rtx.Builder(logger).create_network(0)
    parser = rtx.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graph))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    assert [each.name for each in inputs] == ["input_ids", "cu_seqlens", "max_seqlen"]
    assert not any(each.is_shape_tensor for each in inputs)
    assert {each.dtype for each in inputs} == {rtx.int32}


def test_lint_errors_stop_the_build_and_name_the_node(
    rtx: ModuleType, request_for: Callable[..., CompileRequest], tmp_path: Path
) -> None:
    request = request_for(precision="fp32")
    graph = onnx.load(request.onnx_path)
    gelu = graph.graph.node[3]
    gelu.domain, gelu.op_type, gelu.name = "com.microsoft", "FusedMatMul", "a_fused_node"
    graph.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    fused = tmp_path / "fused.onnx"
    onnx.save(graph, fused)
    request = dataclasses.replace(request, onnx_path=fused)
    with pytest.raises(EngineError, match="a_fused_node") as error:
        ENGINE.compile_with(rtx, ADA, request)
    assert error.value.mend
    assert not list(request.folder.iterdir())
    assert "a_fused_node" in (request.notes / "figures.json").read_text()


def test_cuda_graphs_are_refused_before_anything_is_built(
    request_for: Callable[..., CompileRequest],
) -> None:
    with pytest.raises(EngineError, match="packed runs differ"):
        ENGINE.prepare(request_for(tensorrt={"cuda_graphs": True}), ADA)


def test_fp8_needs_a_gpu_that_has_it(request_for: Callable[..., CompileRequest]) -> None:
    with pytest.raises(EngineError, match=r"A100 has no FP8: its compute capability is 8\.0"):
        ENGINE.prepare(request_for(precision="fp8"), Gpu("A100", "8.0", "580"))


def test_without_tensorrt_the_container_is_named() -> None:
    if importlib.util.find_spec("tensorrt") or importlib.util.find_spec("tensorrt_bindings"):
        pytest.skip("TensorRT is installed")
    with pytest.raises(EngineError, match="TensorRT cannot be imported") as error:
        load_tensorrt()
    assert "docker run --rm --gpus all" in str(error.value.mend)


def test_without_a_gpu_it_is_said_so(
    rtx: ModuleType, request_for: Callable[..., CompileRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_tensorrt", lambda: rtx)
    monkeypatch.setattr(module, "visible_gpus", tuple)
    with pytest.raises(EngineError, match="there is no GPU here"):
        ENGINE.compile(request_for())


def test_what_decides_a_plan_is_described() -> None:
    assert set(ENGINE.describe()) == {"tensorrt", "polygraphy", "gpu", "compute_capability"}


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
def test_the_plan_is_laid_out_for_triton(
    rtx: ModuleType,
    tiny_build: Callable[[str, str], Any],
    request_for: Callable[..., CompileRequest],
    tmp_path: Path,
) -> None:
    request = request_for("classification", tensorrt={"preset": "latency"})
    model_file = ENGINE.compile_with(rtx, ADA, request)
    compiled = CompiledEngine("tensorrt", "fp16", request.layout, request.folder, model_file)
    staging = tmp_path / "staging"
    staging.mkdir()
    tokenizer = tiny_build("bert", "classification").context.tokenizer
    assemble(request.recipe, tokenizer, request.spec, compiled, staging, 3, "key", {})

    assert sorted(path.name for path in staging.iterdir()) == [
        "toy",
        "toy_engine",
        "toy_fanout",
        "toy_tokenizer",
    ]
    assert {path.name for path in (staging / "toy_engine" / "3").iterdir()} == {"model.plan", "identity.json"}
    assert (staging / "toy_fanout" / "3" / "model.py").is_file()
    labels = (staging / "toy_fanout" / "3" / "labels.txt").read_text().split()
    assert labels == list(request.spec.labels)
    for folder in staging.iterdir():
        config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
        assert config.name == folder.name
        assert json.loads((folder / "tritonforge.json").read_text())["models"] == [
            "toy_tokenizer",
            "toy_engine",
            "toy_fanout",
            "toy",
        ]
    # What the config lists is what the plan has.
    engine = text_format.Parse((staging / "toy_engine" / "config.pbtxt").read_text(), pb.ModelConfig())
    identity = PlanIdentity.read(staging / "toy_engine" / "3" / "identity.json")
    listed = [int(index) for index in engine.instance_group[0].profile]
    assert listed == list(range(len(identity.profiles)))
    most = max(profile["cu_seqlens"][2][0] - 1 for profile in identity.profiles)
    assert engine.max_batch_size == most


def test_an_identity_of_another_version_is_refused_with_the_container(tmp_path: Path) -> None:
    identity = PlanIdentity("11.1.0.106", "NVIDIA L4", "8.9", "580", "int8", "none", False, [])
    identity.write(tmp_path)
    assert check(tmp_path, Host("11.1.0.106", (ADA,))) == []
    with pytest.raises(
        EngineError, match=r"built by TensorRT 11\.1\.0\.106 .*; here is 11\.2\.1\.0"
    ) as error:
        check(tmp_path, Host("11.2.1.0", (ADA,)))
    assert "nvcr.io/nvidia/tritonserver:26.07-py3" in str(error.value.mend)
    (slower,) = check(tmp_path, Host("11.1.0.106", (Gpu("NVIDIA RTX 4090", "8.9", "580"),)))
    assert "may run slower" in slower
    (tmp_path / "identity.json").unlink()
    with pytest.raises(RepositoryError, match="identity of the plan cannot be read"):
        check(tmp_path, Host("11.1.0.106", (ADA,)))
