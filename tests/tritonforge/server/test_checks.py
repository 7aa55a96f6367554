from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from python_backends import threads
from tritonforge.errors import ServerError
from tritonforge.server import ServerOptions, checks, locate_tritonserver, resources
from tritonforge.server.ports import connect_host, free_ports, why_unavailable

FREE = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)


def test_a_port_in_use_names_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        reason = why_unavailable("127.0.0.1", port)
        assert reason is not None
        assert f"(pid {os.getpid()})" in reason
        options = FREE.model_copy(update={"metrics_port": port})
        with pytest.raises(ServerError, match=f"metrics port {port}"):
            checks.require(options)
    assert why_unavailable("127.0.0.1", port) is None


def test_an_address_that_is_not_here_is_said_so() -> None:
    assert why_unavailable("192.0.2.1", free_ports(1)[0]) is not None


def test_free_ports_differ() -> None:
    assert len(set(free_ports(8))) == 8


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1")],
)
def test_connect_host(host: str, expected: str) -> None:
    assert connect_host(host) == expected


def test_a_binary_that_does_not_run_fails(tmp_path: Path) -> None:
    broken = tmp_path / "tritonserver"
    broken.write_text("#!/bin/sh\necho 'error while loading shared libraries: libx.so' >&2; exit 127\n")
    broken.chmod(0o755)
    check = checks._check_binary(dataclasses.replace(locate_tritonserver(), binary=broken))
    assert check.status == "fail"
    assert "libx.so" in check.detail
    assert check.mend


def test_a_stub_without_its_libpython_fails() -> None:
    found = locate_tritonserver()
    assert found.stub is not None
    other = found.stub.parent.parent / "3.8" / found.stub.name  # a real stub, of a Python that is not here
    check = checks._check_stub(dataclasses.replace(found, stub=other))
    assert check.status == "fail"
    assert "libpython3.8" in check.detail


def test_no_stub_fails() -> None:
    assert checks._check_stub(dataclasses.replace(locate_tritonserver(), stub=None)).status == "fail"


def test_numpy_2_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("__version__ = '2.1.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = checks._check_numpy(locate_tritonserver())
    assert (check.status, "2.1.0" in check.detail) == ("fail", True)
    assert check.mend is not None
    assert "numpy>=1.26,<2" in check.mend


def test_a_missing_engine_warns_and_no_engine_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "openvino.py").write_text("raise ImportError('broken here')\n")
    status = {check.name: check.status for check in checks._check_engines()}
    assert status == {"tokenizers": "ok", "onnxruntime": "ok", "openvino": "warn"}
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('broken here')\n")
    status = {check.name: check.status for check in checks._check_engines()}
    assert status == {"tokenizers": "ok", "onnxruntime": "fail", "openvino": "fail"}


@pytest.mark.parametrize(("free_mib", "expected"), [(1, "fail"), (20, "warn"), (64, "ok")])
def test_shared_memory_is_judged_by_the_stubs(
    monkeypatch: pytest.MonkeyPatch, free_mib: int, expected: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, free_mib << 20))
    assert checks._check_shm(stubs=2).status == expected


def test_cgroup_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_CGROUP_FOLDER", tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{512 << 20}\n")
    budget = resources.cpu_budget()
    assert budget.quota == 1.5
    assert budget.threads == 1
    assert resources.memory_limit() == 512 << 20
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.cpu_budget().quota is None
    assert resources.memory_limit() > 512 << 20


def test_doctor_counts_threads_as_the_engines_do() -> None:
    assert resources.cpu_budget().threads == threads.physical_cores()
