"""Exports of tiny models and sequences to calibrate them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.compress.int8.session import Batches
from build_engines.spec import ModelSpec
from tritonforge.recipe import Layout


@dataclass(frozen=True)
class Export:
    """A float32 export."""

    path: Path
    spec: ModelSpec
    layout: Layout

    @property
    def batches(self) -> Batches:
        return Batches(self.spec, self.layout, 512)

    def sequences(self, count: int, seed: int = 0) -> list[NDArray[np.int32]]:
        """Random tokens between a first and a last one, most of them short."""
        random = np.random.default_rng(seed)
        high = self.spec.vocab_size
        return [
            np.concatenate([[2], random.integers(5, high, random.integers(1, 30)), [3]]).astype(np.int32)
            for _ in range(count)
        ]


Exports = Callable[..., Export]


@pytest.fixture(scope="session")
def export(tiny_build: Callable[[str, str], Any]) -> Exports:
    """Exports of the builds that tests share: see tests/order.py."""

    def make(architecture: str, task: str = "embedding") -> Export:
        context = tiny_build(architecture, task).context
        return Export(context.exported, context.settled, context.layout)

    return make
