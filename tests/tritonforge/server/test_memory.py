"""The limit of memory, on the real server and under the kernel's own rlimit."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tritonforge.conftest import wait_until
from tests.tritonforge.server.test_process import ask
from tritonforge.errors import UsageError
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.memory import MIB, MemoryGuard, check_limit, limit_of
from tritonforge.server.watchdog import scan_stubs

LIMIT_MIB = 1024
# Keeps as many MiB as a request asks for, touched, so that they are resident.
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            try:
                self.kept.append(np.ones(int(text.reshape(-1)[0]) << 20, np.uint8))
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("echo", text)]))
            except MemoryError as error:
                problem = pb_utils.TritonError(f"no memory: {error}")
                responses.append(pb_utils.InferenceResponse(error=problem))
        return responses
"""
CONFIG = """
backend: "python" max_batch_size: 8
input [{name: "text" data_type: TYPE_STRING dims: [1]}]
output [{name: "echo" data_type: TYPE_STRING dims: [1]}]
instance_group [{kind: KIND_CPU count: 1}]
"""

AddModel = Callable[[Path, str, str, str | None], None]


def publish_recipe(repository: Path, model: str, **recipe: object) -> None:
    """Write what a build says of the recipe."""
    folder = repository / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tritonforge.json").write_text(json.dumps({"build": {"recipe": recipe}}))


@pytest.fixture
def repository(tmp_path: Path, add_model: AddModel) -> Path:
    """Two models that keep what they are asked to."""
    folder = tmp_path / "repository"
    for name in ("first", "second"):
        add_model(folder, name, CONFIG, MODEL)
        publish_recipe(folder, name, target="edge", edge={"max_model_mb": 500, "max_memory_mib": LIMIT_MIB})
    return folder


@pytest.fixture
def server(repository: Path, toy_options: ServerOptions, tmp_path: Path) -> Iterator[TritonServer]:
    with (tmp_path / "log").open("wb") as log, TritonServer(repository, toy_options, log_sink=log) as running:
        yield running


def data_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_DATA)[0]


def test_the_kernel_says_no_to_one_process_and_the_server_lives_on(server: TritonServer) -> None:
    assert server.memory_limit_mib == LIMIT_MIB, "from the manifests"
    stubs = {stub.pid for stub in scan_stubs(server.pid)[0]}
    assert len(stubs) == 2
    assert {data_limit(pid) for pid in (server.pid, *stubs)} == {LIMIT_MIB * MIB}
    assert data_limit(os.getpid()) == resource.RLIM_INFINITY, "nobody else is limited"

    refused = ask(server, "first", str(2 * LIMIT_MIB))
    assert refused.status_code >= 400
    assert "no memory: Unable to allocate 2.00 GiB" in refused.text
    assert ask(server, "first", "1").json()["echo"] == "1"
    assert {stub.pid for stub in scan_stubs(server.pid)[0]} == stubs, "no process had to go"


def test_together_they_hold_no_more_either(server: TritonServer, caplog: pytest.LogCaptureFixture) -> None:
    # A limit of their own, which two processes exceed that would each be within theirs.
    before = {stub.model: stub.pid for stub in scan_stubs(server.pid)[0]}
    assert ask(server, "first", "120").status_code == 200
    guard = MemoryGuard(server.pid, 450 * MIB)
    guard.look()
    assert {stub.model: stub.pid for stub in scan_stubs(server.pid)[0]} == before
    assert ask(server, "second", "300").status_code == 200

    guard.look()
    assert "ending the largest stub, of model 'second'" in caplog.text
    guard.look()
    assert caplog.text.count("ending the largest stub") == 1, (
        "the one that is being taken apart does not count"
    )

    # The watchdog brings the model back, empty; the other one never went.
    def after() -> dict[str, int]:
        return {stub.model: stub.pid for stub in scan_stubs(server.pid)[0]}

    assert wait_until(lambda: after().get("second", before["second"]) != before["second"])
    assert after()["first"] == before["first"]
    assert wait_until(lambda: ask(server, "second", "1").status_code == 200)


def test_a_server_without_edge_models_has_no_limit(toy_server: TritonServer) -> None:
    assert toy_server.memory_limit_mib is None
    assert data_limit(toy_server.pid) == resource.RLIM_INFINITY


def test_the_limit_is_the_largest_that_the_served_models_ask_for(tmp_path: Path) -> None:
    publish_recipe(tmp_path, "one", target="edge", edge={"max_memory_mib": 1500})
    publish_recipe(tmp_path, "two", target="edge", edge={"max_memory_mib": 2048})
    publish_recipe(tmp_path, "server", target="server", edge={"max_memory_mib": 4096})
    publish_recipe(tmp_path, "older")
    (tmp_path / "foreign").mkdir()
    assert limit_of(tmp_path, ("one", "server", "older", "foreign", "missing")) == 1500
    assert limit_of(tmp_path, ("one", "two")) == 2048
    assert limit_of(tmp_path, ("server", "older")) is None
    (tmp_path / "two" / "tritonforge.json").write_text("{")
    assert limit_of(tmp_path, ("two",)) is None


@pytest.mark.parametrize(("asked", "limit"), [(0, None), (1500, 1500)])
def test_the_operator_has_the_last_word(repository: Path, asked: int, limit: int | None) -> None:
    server = TritonServer(repository, ServerOptions(memory_limit_mib=asked, models=("first",)))
    server.models = ("first",)
    assert server._memory_limit() == limit


def test_a_limit_under_which_nothing_starts_is_refused() -> None:
    with pytest.raises(UsageError, match="needs 1024 MiB at least, and was given 512"):
        check_limit(512)


def test_a_limit_above_the_hard_one_is_an_error_not_a_crash() -> None:
    code = (
        "import os, resource, tritonforge.server.memory as memory\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: memory.limit_process(os.getpid(), 8 << 30)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    if os.geteuid() != 0:
        code = code.replace("os.setgroups([]); os.setgid(65534); os.setuid(65534)\n", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("ServerError"), done.stderr
    assert "the hard limit is 4096 MiB" in done.stdout
