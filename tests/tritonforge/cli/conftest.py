from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritonforge.server import ServerOptions, TritonServer

TOYS = Path(__file__).parents[2] / "clients" / "toy_repository"


@pytest.fixture(scope="session")
def text_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real server with the clients' toy models: one says prompts back, one embeds."""
    folder = tmp_path_factory.mktemp("toys")
    for name in ("toy_generator", "toy_embedder"):
        shutil.copytree(
            TOYS / name, folder / "repository" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with (
        (folder / "tritonserver.log").open("wb") as sink,
        TritonServer(folder / "repository", options, log_sink=sink) as server,
    ):
        yield server
