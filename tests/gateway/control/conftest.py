from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.control.loopback import Fleet


@pytest.fixture
def folder() -> Iterator[Path]:
    """A run folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tf-") as path:
        yield Path(path)


@pytest.fixture(scope="package")
def fleet(gateway_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Servers that tests borrow."""
    made = Fleet(gateway_repository, tmp_path_factory.mktemp("fleet") / "triton.log")
    yield made
    made.stop()
