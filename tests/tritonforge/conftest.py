"""A toy repository for the real tritonserver: `slow` echoes its text, `front` is an ensemble over it.

The text may be an order: `sleep S PATH` writes the file and takes S seconds, `die` kills the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tritonforge.server import ServerOptions, TritonServer

_MODEL = """
import os, signal, time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        print("engine threads:", os.environ.get("TRITONFORGE_ENGINE_THREADS"), flush=True)

    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            word, *arguments = text.reshape(-1)[0].decode().split(" ")
            if word == "sleep":
                open(arguments[1], "w").close()
                time.sleep(float(arguments[0]))
            elif word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("echo", text)]))
        return responses
"""
_TENSORS = """
max_batch_size: 8
input [{name: "text" data_type: TYPE_STRING dims: [1]}]
output [{name: "echo" data_type: TYPE_STRING dims: [1]}]
"""
_SLOW = 'backend: "python"' + _TENSORS + "instance_group [{kind: KIND_CPU count: 1}]\n"
_FRONT = (
    'platform: "ensemble"'
    + _TENSORS
    + """
ensemble_scheduling { step [{
  model_name: "slow" model_version: -1
  input_map {key: "text" value: "text"} output_map {key: "echo" value: "echo"}
}] }
"""
)


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it held within the time that a slow machine may need."""
    deadline = time.monotonic() + 120
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


@pytest.fixture
def add_model() -> Callable[[Path, str, str, str | None], None]:
    def add(repository: Path, name: str, config: str, source: str | None) -> None:
        version = repository / name / "1"
        version.mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
        if source is not None:
            (version / "model.py").write_text(source)

    return add


@pytest.fixture
def toy_repository(tmp_path: Path, add_model: Callable[[Path, str, str, str | None], None]) -> Path:
    repository = tmp_path / "repository"
    add_model(repository, "slow", _SLOW, _MODEL)
    add_model(repository, "front", _FRONT, None)
    (repository / ".half_built").mkdir()
    (repository / ".half_built" / "config.pbtxt").write_text("not a config")
    (repository / "notes").mkdir()
    return repository


@pytest.fixture
def toy_options() -> ServerOptions:
    return ServerOptions(http_port=0, grpc_port=0, metrics_port=0, exit_timeout_s=120)


@pytest.fixture
def toy_server(toy_repository: Path, toy_options: ServerOptions, tmp_path: Path) -> Iterator[TritonServer]:
    with (
        (tmp_path / "triton.log").open("wb") as log,
        TritonServer(toy_repository, toy_options, log_sink=log) as running,
    ):
        yield running
