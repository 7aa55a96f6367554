from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritonforge.server import ServerOptions, TritonServer

_CROWDED = """
dynamic_batching {
  preferred_batch_size: [ 32 ]
  max_queue_delay_microseconds: 5000
  default_queue_policy { max_queue_size: 2 }
}
"""
TOY = Path(__file__).parents[1] / "clients" / "toy_repository"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real tritonserver with the toy models of the client tests."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(TOY, folder / "repository", ignore=shutil.ignore_patterns("__pycache__"))
    crowded = folder / "repository" / "crowded"  # one that turns requests away
    shutil.copytree(folder / "repository" / "toy_embedder", crowded)
    with (crowded / "config.pbtxt").open("a") as config:
        config.write(_CROWDED)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = folder / "tritonserver.log"
    with log.open("wb") as sink, TritonServer(folder / "repository", options, log_sink=sink) as toy:
        yield toy
