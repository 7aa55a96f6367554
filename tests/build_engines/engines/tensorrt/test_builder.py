"""The builder, for real: parser, type checker and compiler of TensorRT for RTX, on small graphs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from build_engines.engines.tensorrt.builder import BuildOptions, build_plan
from build_engines.engines.tensorrt.logs import recorded
from build_engines.engines.tensorrt.profiles import Profile, ShapeRange
from build_engines.engines.tensorrt.timing import TimingCacheFile
from tritonforge.errors import EngineError
from tritonforge.recipe import TensorRt

SM89 = BuildOptions(compute_capabilities=("8.9",))
GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
toy (float16[rows, 32] x, float16[rows, 32] y) => (float16[rows, 32] z) {
    product = MatMul(x, weight)
    z = Add(product, y)
}
"""


def save(path: Path, text: str = GRAPH) -> Path:
    model = onnx.parser.parse_model(text)
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, str(path))
    return path


def profile(least: int = 1, opt: int = 8, most: int = 64, **other: ShapeRange) -> Profile:
    rows = ShapeRange((least, 32), (opt, 32), (most, 32))
    return {"x": rows, "y": rows, **other}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(tmp_path / "toy.onnx")


def test_a_plan_with_the_layer_table_in_its_log(rtx: ModuleType, graph: Path) -> None:
    built = build_plan(rtx, graph, [profile()], SM89)
    assert len(built.plan) > 1000
    assert "node_0" in built.log  # detailed verbosity names the nodes of each layer
    assert built.timing_cache_bytes == 0


def test_disjoint_profiles(rtx: ModuleType, graph: Path) -> None:
    assert build_plan(rtx, graph, [profile(1, 4, 8), profile(9, 32, 64)], SM89).plan


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(compute_capabilities=("8.0", "8.9")),
        BuildOptions(compute_capabilities=("8.9",), hardware_compatibility="ampere_plus"),
        BuildOptions(compute_capabilities=("8.9",), weight_streaming=True),
        BuildOptions(compute_capabilities=("8.9",), optimization_level=0, workspace_bytes=64 << 20),
    ],
    ids=lambda options: str(options)[13:60],
)
def test_every_option_is_taken(rtx: ModuleType, graph: Path, options: BuildOptions) -> None:
    assert build_plan(rtx, graph, [profile()], options).plan


def test_a_build_that_fails_tells_the_compilers_reason(rtx: ModuleType, graph: Path) -> None:
    """Version-compatible plans need the lean runtime, which TensorRT for RTX does not bring."""
    options = BuildOptions(compute_capabilities=("8.9",), version_compatible=True)
    with pytest.raises(EngineError, match=r"could not build the engine: .*[Ll]ean") as error:
        build_plan(rtx, graph, [profile()], options)
    assert error.value.where == str(graph)


def test_a_workspace_too_small_is_said_so(rtx: ModuleType, graph: Path) -> None:
    options = BuildOptions(compute_capabilities=("8.9",), workspace_bytes=1 << 20)
    with pytest.raises(EngineError, match="within workspace limit") as error:
        build_plan(rtx, graph, [profile()], options)
    assert "raise tensorrt.workspace_mib" in str(error.value.mend)


def test_the_parser_s_errors_name_the_node(rtx: ModuleType, tmp_path: Path) -> None:
    odd = save(
        tmp_path / "odd.onnx",
        GRAPH.replace("Add(product, y)", 'BitShift<direction: string = "LEFT">(product, y)'),
    )
    with pytest.raises(EngineError, match="parser refuses the graph: BitShift node node_1: "):
        build_plan(rtx, odd, [profile()], SM89)


def test_types_that_mix_are_refused(rtx: ModuleType, tmp_path: Path) -> None:
    """The strongly typed network does not cast by itself."""
    mixed = save(tmp_path / "mixed.onnx", GRAPH.replace("float16[rows, 32] y", "float[rows, 32] y"))
    with pytest.raises(EngineError, match="node_1"):
        build_plan(rtx, mixed, [profile()], SM89)


def test_a_file_that_is_no_graph(rtx: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_text("no graph")
    with pytest.raises(EngineError, match="parser refuses the graph"):
        build_plan(rtx, tmp_path / "no.onnx", [profile()], SM89)


@pytest.mark.parametrize(
    ("profiles", "says"),
    [
        ([], "profile"),
        ([{"x": profile()["x"]}], "y"),
        ([profile(9, 8, 64)], "profile 0"),
        ([{"x": profile()["x"], "y": profile(1, 9, 64)["y"]}], "self-consistent|rows"),
        ([{"x": profile()["x"], "y": ShapeRange((1, 16), (8, 16), (64, 16))}], "y"),
    ],
    ids=["none", "an input forgotten", "not ascending", "one name, two sizes", "a fixed dimension changed"],
)
def test_profiles_that_do_not_fit_fail_with_a_reason(
    rtx: ModuleType, graph: Path, profiles: Any, says: str
) -> None:
    with pytest.raises(EngineError, match=says):
        build_plan(rtx, graph, profiles, SM89)


def test_rtx_knows_no_hopper(rtx: ModuleType, graph: Path) -> None:
    with pytest.raises(EngineError, match=r"does not build for compute capability 9\.0"):
        build_plan(rtx, graph, [profile()], BuildOptions(compute_capabilities=("9.0",)))


def test_the_recipe_s_section_is_read() -> None:
    section = TensorRt(
        optimization_level=5,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        weight_streaming=True,
        workspace_mib=512,
    )
    assert BuildOptions.of(section) == BuildOptions(5, "ampere_plus", True, True, 512 << 20)


# TensorRT for RTX takes and gives timing caches that hold nothing: what is tried here is the way of the file.
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
def test_the_timing_cache_is_kept_by_version_and_gpu(rtx: ModuleType, graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = TimingCacheFile(folder, "1.7.1.116", "NVIDIA L4 / 24GB")
    first = build_plan(rtx, graph, [profile()], SM89, cache)
    assert cache.path.name == "timing-1.7.1.116-NVIDIA-L4-24GB.cache"
    assert cache.path.stat().st_size == first.timing_cache_bytes > 0
    second = build_plan(rtx, graph, [profile()], SM89, cache)
    assert second.timing_cache_bytes >= first.timing_cache_bytes
    assert not list(folder.glob("*.tmp"))


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
def test_a_damaged_timing_cache_is_begun_anew(rtx: ModuleType, graph: Path, tmp_path: Path) -> None:
    cache = TimingCacheFile(tmp_path, "1.7.1.116", "L4")
    cache.path.write_bytes(b"damaged")
    assert build_plan(rtx, graph, [profile()], SM89, cache).timing_cache_bytes > 0
    assert cache.path.read_bytes() != b"damaged"


def test_one_logger_for_the_process(rtx: ModuleType) -> None:
    with recorded(rtx) as (first, log):
        rtx.Builder(first)
        first.log(rtx.ILogger.Severity.ERROR, "one")
        first.log(rtx.ILogger.Severity.ERROR, "one")
        first.log(rtx.ILogger.Severity.WARNING, "two")
    assert log.errors() == ["one"]
    assert "[WARNING] two" in log.text()
    with recorded(rtx) as (second, fresh):
        assert second is first
        assert not fresh.errors()
