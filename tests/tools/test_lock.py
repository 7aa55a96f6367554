from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_lock", ROOT / "tools" / "lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_everything_the_extras_need_is_locked_at_the_installed_version(lock: ModuleType) -> None:
    project = lock.read_project()
    found = lock.closure(project, project["optional-dependencies"])
    assert len(found) > 100
    locked = lock.read_lock()
    assert {name: locked.get(name) for name in found} == found


def test_the_lock_names_no_host_path_hash_or_local_version(lock: ModuleType) -> None:
    pins = [line for line in lock.LOCK.read_text().splitlines() if not line.startswith("#")]
    for line in pins:
        name, separator, pinned = line.partition("==")
        assert separator and name == canonicalize_name(name)
        assert not set("/:+@ ;") & set(pinned)
    assert pins == sorted(pins, key=lambda line: line.partition("==")[0])
    assert "tritonforge" not in lock.read_lock()


def test_the_locked_torch_takes_any_build_of_that_version(lock: ModuleType) -> None:
    pin = SpecifierSet(f"=={lock.read_lock()['torch']}")
    assert version("torch") in pin
    assert "2.13.0+cpu" in pin
    assert "2.13.1" not in pin


def test_serving_needs_neither_torch_nor_transformers(lock: ModuleType) -> None:
    serving = lock.closure(lock.read_project(), ["serve"])
    assert {"nvidia-pytriton", "onnxruntime", "openvino", "tokenizers", "numpy"} <= serving.keys()
    assert not {"torch", "transformers", "onnx", "nncf"} & serving.keys()
    assert "nvidia-pytriton" not in lock.closure(lock.read_project(), ["backends"])


def test_a_missing_package_is_named_with_who_needs_it(lock: ModuleType) -> None:
    project = {"name": "x", "dependencies": ["no-such-package-x"], "optional-dependencies": {}}
    with pytest.raises(lock.NotInstalledError, match="no-such-package-x, which x needs"):
        lock.closure(project, [])


def test_check_says_what_differs(
    lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "requirements.lock"
    changed.write_text(lock.LOCK.read_text().replace("numpy==1.26.4", "numpy==1.26.3"))
    monkeypatch.setattr(lock, "LOCK", changed)
    monkeypatch.setattr(lock.read_lock, "__defaults__", (changed,))
    monkeypatch.setattr(sys, "argv", ["lock.py", "--check"])
    assert lock.main() == 1
    assert "numpy: locked 1.26.3, installed 1.26.4" in capsys.readouterr().err


@pytest.mark.slow
def test_pip_has_nothing_to_change_here_under_the_lock() -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "-c"]
    command += ["requirements.lock", "-e", ".[build,serve,demo,rtx,gateway,loadtest,docs,dev]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import json

    planned = [each["metadata"]["name"] for each in json.loads(done.stdout)["install"]]
    assert planned == ["tritonforge"]
