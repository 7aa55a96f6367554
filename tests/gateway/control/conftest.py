from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A run folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tf-") as path:
        yield Path(path)
