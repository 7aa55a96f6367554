from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import loadtest
from loadtest.perf_analyzer.install import DEFAULT_CACHE, install
from tritonforge.server import ServerOptions, TritonServer

ROOT = Path(loadtest.__file__).parents[1]


@pytest.fixture(scope="session")
def tool() -> Path:
    """The real tool, installed into the project's cache unless it is there."""
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        pytest.skip("perf_analyzer is installed on Debian and Ubuntu only")
    return install(ROOT / DEFAULT_CACHE)


@pytest.fixture(scope="session")
def generator(
    tiny_generation_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A real tritonserver with a tiny Llama."""
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, engine_threads=1)
    log = tmp_path_factory.mktemp("log") / "generator.log"
    with log.open("wb") as sink, TritonServer(tiny_generation_repository, options, log_sink=sink) as running:
        yield running
