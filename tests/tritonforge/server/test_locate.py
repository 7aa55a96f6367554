from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonforge.errors import ServerError
from tritonforge.server import locate


def test_the_wheel_is_found_and_its_stub_is_of_this_python() -> None:
    found = locate.locate_tritonserver()
    assert found.kind == "embedded"
    assert found.binary.is_file()
    assert found.stub is not None
    needed = f"libpython{sys.version_info.major}.{sys.version_info.minor}".encode()
    assert needed in found.stub.read_bytes()


def test_backends_are_laid_out_side_by_side_as_links(tmp_path: Path) -> None:
    folder = locate.locate_tritonserver().lay_out_backends(tmp_path)
    assert folder == tmp_path
    names = {"libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub"}
    entries = list((tmp_path / "python").iterdir())
    assert {entry.name for entry in entries} == names
    assert all(entry.is_symlink() and entry.exists() for entry in entries)


def test_the_stubs_interpreter_is_this_environment() -> None:
    found = locate.locate_tritonserver()
    environment = found.environment({**os.environ, "PYTHONHOME": "/nonexistent"})
    code = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, list(sys.version_info[:3])]))"
    done = subprocess.run(
        ["python3", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [sys.prefix, sys.base_prefix, list(sys.version_info[:3])]


def test_a_tritonserver_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The layout of the Triton container.
    binary = tmp_path / "bin" / "tritonserver"
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    for file in (binary, stub):
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    (tmp_path / "TRITON_VERSION").write_text("2.60.0\n")
    monkeypatch.setenv("PATH", str(binary.parent), prepend=os.pathsep)
    monkeypatch.delenv("TRITON_SERVER_VERSION", raising=False)
    found = locate.locate_tritonserver()
    assert (found.kind, found.version, found.stub) == ("system", "2.60.0", stub)
    assert found.lay_out_backends(tmp_path) is None
    assert found.environment({}).get("LD_LIBRARY_PATH") is None


def test_nothing_found_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(locate, "WHEEL", "no-such-wheel")
    with pytest.raises(ServerError, match="pip install"):
        locate.locate_tritonserver()
