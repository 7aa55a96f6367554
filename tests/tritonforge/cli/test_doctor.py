from __future__ import annotations

import json
import socket
import subprocess
import sys

FREE = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritonforge.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_json_holds_every_check_and_all_pass_here() -> None:
    done = doctor("--json", *FREE)
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    names = {check["name"] for check in report["checks"]}
    assert report["ok"] is True
    assert {"tritonserver", "Python backend stub", "numpy of the stubs", "/dev/shm", "CPU", "GPU"} <= names
    assert {"tokenizers", "onnxruntime", "openvino", "open files", "disk", "perf_analyzer", "envoy"} <= names


def test_a_port_in_use_fails_and_the_table_says_how_to_mend_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = doctor("--http-port", str(port), *FREE[2:])
    assert done.returncode == 1
    assert f"http port {port}" in done.stdout
    assert "mend:" in done.stdout
    assert "1 failed" in done.stdout
