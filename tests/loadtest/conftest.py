from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritonforge.server import ServerOptions, TritonServer

TOY = Path(__file__).parents[1] / "clients" / "toy_repository"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real tritonserver with the toy models of the client tests."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(TOY, folder / "repository", ignore=shutil.ignore_patterns("__pycache__"))
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = folder / "tritonserver.log"
    with log.open("wb") as sink, TritonServer(folder / "repository", options, log_sink=sink) as toy:
        yield toy
