"""The check for arm64 wheels, against the package index itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def arm64() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_arm64", ROOT / "tools" / "arm64.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_the_server_and_its_engines_have_wheels_at_the_locked_versions(
    arm64: ModuleType, tmp_path: Path
) -> None:
    pins = arm64.lock.read_lock()
    named = ("nvidia-pytriton", "onnxruntime", "openvino", "openvino-genai", "tokenizers", "numpy")
    wheels = arm64.find({name: pins[name] for name in named}, tmp_path, keep=False)
    assert [wheel.name for wheel in wheels] == list(named)
    for wheel in wheels:
        assert wheel.file and "aarch64" in wheel.file, wheel.problem
        assert wheel.native
        assert int(wheel.glibc.split(".")[1]) <= arm64.GLIBC
    assert not list(tmp_path.glob("*.whl")), "asked, not downloaded"


def test_what_has_no_wheel_is_named_with_pips_reason(arm64: ModuleType, tmp_path: Path) -> None:
    # TensorRT for RTX is for x86-64 alone.
    pins = {"rich": arm64.lock.read_lock()["rich"], "tensorrt-rtx-cu12-libs": "1.7.1.116"}
    there, wheel = arm64.find(pins, tmp_path, keep=False)
    assert there.file and not there.native
    assert wheel.file is None
    assert "tensorrt-rtx-cu12-libs" in wheel.problem
    (row,) = [line for line in arm64.table([wheel]) if "tensorrt" in line]
    assert "**none**" in row


def test_a_wheel_is_kept_where_it_is_wanted_and_found_again(arm64: ModuleType, tmp_path: Path) -> None:
    pinned = arm64.lock.read_lock()["markupsafe"]
    for _ in range(2):
        (wheel,) = arm64.find({"markupsafe": pinned}, tmp_path, keep=True)
        assert (tmp_path / wheel.file).stat().st_size > 10_000
    assert len(list(tmp_path.glob("*.whl"))) == 1


@pytest.mark.parametrize(
    ("file", "native", "glibc"),
    [
        ("rich-15.0.0-py3-none-any.whl", False, ""),
        ("numpy-1.26.4-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", True, "2.17"),
        ("greenlet-3.3.2-cp311-cp311-manylinux_2_24_aarch64.manylinux_2_28_aarch64.whl", True, "2.24"),
        ("protobuf-6.33.6-cp39-abi3-manylinux2014_aarch64.whl", True, "2.17"),
    ],
)
def test_what_a_file_name_says(arm64: ModuleType, file: str, native: bool, glibc: str) -> None:
    wheel = arm64.Wheel("x", "1", file)
    assert (wheel.native, wheel.glibc) == (native, glibc)


def test_the_page_names_every_package_that_serving_needs(arm64: ModuleType) -> None:
    page = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")
    shown = page.partition(arm64.BEGIN)[2].partition(arm64.END)[0]
    pins = arm64.lock.read_lock()
    for name in arm64.lock.closure(arm64.lock.read_project(), ["serve"]):
        assert f"| {name} | {pins[name]} |" in shown or f"{name} {pins[name]}" in shown, (
            f"{name}: run python tools/arm64.py --write"
        )
