from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.tritonforge.conftest import wait_until
from tritonforge.server.watchdog import scan_stubs

COMMAND = [sys.executable, "-m", "tritonforge.cli", "serve"]
FREE = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]

Start = Callable[..., tuple["subprocess.Popen[str]", dict[str, Any]]]


@pytest.fixture
def start(toy_repository: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `tritonforge serve --json`; give the process and what it printed when it was ready."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        log = (tmp_path / "serve.log").open("wb")
        command = [*COMMAND, "--repository", str(toy_repository), *FREE, "--json", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        running.append(process)
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("}"):
                return process, json.loads(printed)
        raise AssertionError((tmp_path / "serve.log").read_text())

    yield run
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.wait(300)


def generate(ready: dict[str, Any], model: str, text: str) -> httpx.Response:
    url = f"{ready['http']}/v2/models/{model}/generate"
    return httpx.post(url, json={"text": text}, timeout=120.0, trust_env=False)


def test_ready_prints_lines_that_work_when_pasted(start: Start) -> None:
    _, ready = start()
    assert ready["models"] == ["front", "slow"]
    (front,) = ready["ensembles"]
    assert front["name"] == "front"
    infer, generated = (
        json.loads(subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout)
        for line in front["curl"]
    )
    assert infer["outputs"][0]["data"] == ["A door opens by itself."]
    assert generated["echo"] == "A door opens by itself."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_request_in_flight_finish(
    start: Start, number: signal.Signals, tmp_path: Path
) -> None:
    process, ready = start()
    (stub,) = scan_stubs(ready["pid"])[0]
    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(generate, ready, "front", f"sleep 2 {tmp_path}/begun")
        assert wait_until((tmp_path / "begun").exists)
        process.send_signal(number)
        assert in_flight.result().json()["echo"] == f"sleep 2 {tmp_path}/begun"
    assert process.wait(120) == 0
    assert not psutil.pid_exists(ready["pid"])
    assert not psutil.pid_exists(stub.pid)


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    process, ready = start("--exit-timeout", "600")
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(generate, ready, "front", f"sleep 600 {tmp_path}/begun")
        assert wait_until((tmp_path / "begun").exists)
        process.terminate()
        # Triton has the first one: the next is no more one with it.
        assert wait_until(lambda: "Signal (15) received" in (tmp_path / "serve.log").read_text())
        process.terminate()
        assert process.wait(120) != 0
        with pytest.raises(httpx.TransportError):
            lost.result()
    assert not psutil.pid_exists(ready["pid"])


def test_a_killed_stub_is_brought_back_and_said_so(start: Start, tmp_path: Path) -> None:
    _, ready = start()
    (stub,) = scan_stubs(ready["pid"])[0]
    os.kill(stub.pid, signal.SIGKILL)
    assert wait_until(lambda: generate(ready, "front", "again").is_success)
    # Standard error is no terminal here: every line of it is an event.
    lines = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    (said,) = [line for line in lines if line["component"] == "serve" and str(stub.pid) in line["event"]]
    assert (
        f"stub of model 'slow' (pid {stub.pid}) was killed by SIGKILL; reloading the model" in said["event"]
    )
    assert {"time", "level", "component", "logger", "event"} <= set(said)
    assert {line["component"] for line in lines} >= {"triton", "serve"}


def test_one_switch_sets_the_level_of_triton_and_of_serve(start: Start, tmp_path: Path) -> None:
    _, ready = start("--load", "slow", "--log-format", "text")
    log = tmp_path / "serve.log"
    wanted = ("HTTP request", "tritonforge DEBUG")
    assert not any(words in log.read_text() for words in wanted)
    httpx.post(f"{ready['http']}/v2/logging", json={"log_verbose_level": 1}, timeout=60, trust_env=False)
    assert wait_until(lambda: all(words in log.read_text() for words in wanted)), log.read_text()[-2000:]


def test_a_server_that_dies_is_an_error(start: Start, tmp_path: Path) -> None:
    process, ready = start()
    os.kill(ready["pid"], signal.SIGKILL)
    assert process.wait(120) == 1
    rest = (process.stdout.read() if process.stdout else "") + (tmp_path / "serve.log").read_text()
    assert "tritonserver was killed by SIGKILL by itself" in rest


def test_tritonserver_does_not_outlive_a_killed_serve(start: Start) -> None:
    process, ready = start()
    triton = psutil.Process(ready["pid"])
    stubs = triton.children()
    assert stubs
    process.kill()
    _, alive = psutil.wait_procs([triton, *stubs], timeout=120)
    assert not alive


def test_only_the_wanted_model_is_loaded(start: Start) -> None:
    _, ready = start("--load", "slow", "--engine-threads", "1")
    assert ready["models"] == ["slow"]
    assert ready["ensembles"] == []
    assert generate(ready, "slow", "x").is_success
    assert not generate(ready, "front", "x").is_success


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_a_port_in_use_names_the_port_and_its_holder(toy_repository: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = run("--repository", str(toy_repository), *FREE[:2], "--grpc-port", str(port), *FREE[4:])
    assert done.returncode == 1
    assert f"grpc port {port}" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("exists", [True, False])
def test_a_repository_without_models_says_how_to_build_one(tmp_path: Path, exists: bool) -> None:
    done = run("--repository", str(tmp_path if exists else tmp_path / "nothing"))
    assert done.returncode == 1
    assert "tritonforge build recipes/minilm.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_does_not_load_is_named(toy_repository: Path, add_model: Callable[..., None]) -> None:
    config = (toy_repository / "slow" / "config.pbtxt").read_text()
    add_model(toy_repository, "broken", config, "import a_module_that_is_not_there\n")
    done = run("--repository", str(toy_repository), *FREE)
    assert done.returncode == 1
    assert "failed to load 'broken'" in done.stderr.partition("error")[2]
    assert "Traceback" not in done.stderr
