"""Every name of TensorRT that the code touches is in TensorRT 10, in 11, and in TensorRT for RTX."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import build_engines.engines.tensorrt as package

SOURCES = sorted(Path(package.__file__).parent.glob("*.py"))

# What TensorRT 11 took away, and is easily written from habit.
REMOVED = {
    *("IInt8Calibrator", "IInt8EntropyCalibrator", "IInt8EntropyCalibrator2", "IInt8LegacyCalibrator"),
    *("IInt8MinMaxCalibrator", "CalibrationAlgoType", "QuantizationFlag", "IAlgorithmSelector"),
    *("IStreamReader", "SubGraphCollection"),
    *("platform_has_fast_fp16", "platform_has_fast_int8", "platform_has_tf32"),
    *("FP16", "BF16", "INT8", "FP8", "INT4", "FP4"),
    *("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", "REJECT_EMPTY_ALGORITHMS", "WEIGHTLESS"),
    "EXPLICIT_BATCH",
    *("int8_calibrator", "algorithm_selector", "set_calibration_profile", "get_calibration_profile"),
    *("set_quantization_flag", "get_quantization_flag", "clear_quantization_flag", "quantization_flags"),
    *("precision_is_set", "reset_precision", "set_output_type", "output_type_is_set", "reset_output_type"),
    *("dynamic_range", "set_dynamic_range", "reset_dynamic_range", "compute_precision"),
    *("has_implicit_batch_dimension", "device_memory_size", "get_device_memory_size_for_profile"),
    *("weight_streaming_budget", "minimum_weight_streaming_budget"),
    *("create_execution_context_without_device_memory", "all_shape_inputs_specified"),
    *("supports_model", "parse_with_weight_descriptors"),
    *("CUBLAS", "CUBLAS_LT", "CUDNN", "PROFILE_SHARING_0806", "MULTIDEVICE_RUNTIME_10_16"),
    *("plugin_creator_list", "get_plugin_creator"),
}
# Behind is_rtx(): named compute capabilities are what TensorRT for RTX alone has.
RTX_ONLY = {("ComputeCapability",)}


def chains(path: Path) -> Iterator[tuple[str, ...]]:
    """``X, Y`` of each ``trt.X.Y`` and ``tensorrt.X.Y``, the longest form of each."""
    inner = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute) or node in inner:
            continue
        names = []
        here: ast.expr = node
        while isinstance(here, ast.Attribute):
            inner.add(here)
            names.append(here.attr)
            here = here.value
        names = [name for name in reversed(names) if not name.startswith("__")]
        if isinstance(here, ast.Name) and here.id in {"trt", "tensorrt"} and names:
            yield tuple(names)


USED = {chain for path in SOURCES for chain in chains(path)}


def test_the_walk_finds_what_is_used() -> None:
    assert {("Builder",), ("BuilderFlag", "VERSION_COMPATIBLE"), ("IBuilderConfig",)} <= USED
    assert len(USED) > 15


def test_nothing_that_tensorrt_11_removed_is_touched() -> None:
    touched = {
        (path.name, node.attr)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in REMOVED
    }
    assert not touched


def test_the_removed_names_are_those_that_the_bindings_lost(snapshot: Any) -> None:
    old, new = (snapshot[version] for version in sorted(snapshot))
    for name, attributes in old["attributes"].items():
        lost = set(attributes) - set(new["attributes"][name])
        assert lost <= REMOVED, name
    # The flag that TensorRT 10 needs is still there in 11, without effect.
    assert "STRONGLY_TYPED" in new["attributes"]["NetworkDefinitionCreationFlag"]


@pytest.mark.parametrize("chain", sorted(USED - RTX_ONLY), ids=".".join)
def test_a_name_is_in_tensorrt_10_and_11(chain: tuple[str, ...], snapshot: Any) -> None:
    for version, known in snapshot.items():
        assert chain[0] in known["names"], version
        if len(chain) > 1:
            assert chain[1] in known["attributes"][chain[0]], version


@pytest.mark.parametrize("chain", sorted(USED), ids=".".join)
def test_a_name_is_in_tensorrt_for_rtx(chain: tuple[str, ...], rtx: ModuleType) -> None:
    here: Any = rtx
    for name in chain:
        here = getattr(here, name)


def test_no_capability_is_named_in_the_enterprise_bindings(snapshot: Any) -> None:
    """:func:`is_rtx` tells the modules apart by it."""
    assert not any("ComputeCapability" in known["names"] for known in snapshot.values())


def test_calls_fit_the_signatures_of_tensorrt_for_rtx(
    rtx: ModuleType, type_check: Callable[..., list[str]]
) -> None:
    module = "tensorrt_rtx_bindings.tensorrt_rtx"
    assert type_check(module, SOURCES) == []


def test_a_wrong_call_is_found(rtx: ModuleType, type_check: Callable[..., list[str]], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt\n\n\n"
        "def build(config: tensorrt.IBuilderConfig) -> None:\n"
        "    config.max_workspace_size = 1\n"
        "    config.set_flag()\n"
    )
    told = "\n".join(type_check("tensorrt_rtx_bindings.tensorrt_rtx", [wrong]))
    assert 'has no attribute "max_workspace_size"' in told
    assert 'Missing positional argument "flag"' in told


def test_the_snapshot_is_true(
    snapshot: Any, enterprise: dict[str, dict[str, str]], dump_names: Callable[..., Any]
) -> None:
    for version, known in snapshot.items():
        if version in enterprise:
            found = dump_names(enterprise[version], *known["attributes"])
            assert found == {"version": version, **known}


def test_calls_fit_the_signatures_of_tensorrt(
    enterprise: dict[str, dict[str, str]], type_check: Callable[..., list[str]]
) -> None:
    assert enterprise
    for version, environment in enterprise.items():
        assert type_check("tensorrt_bindings.tensorrt", SOURCES, environment) == [], version
