from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritonforge.server import ServerOptions, TritonServer

FREE_PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


@pytest.fixture(scope="session")
def toy_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: Triton must find no byte code that an earlier run left beside the model."""
    copy = tmp_path_factory.mktemp("toy") / "repository"
    shutil.copytree(
        Path(__file__).parent / "toy_repository", copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    return copy


@pytest.fixture(scope="session")
def server(toy_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("toy") / "tritonserver.log"
    with (
        log.open("wb") as sink,
        TritonServer(toy_repository, ServerOptions(**FREE_PORTS), log_sink=sink) as toy,
    ):
        yield toy
