from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from build_engines.estimate.architecture import read_architecture
from build_engines.estimate.layer import OUTPUT, write_layers
from build_engines.model_files import find_model
from python_backends.packing import flatten, pack
from python_backends.runners import OnnxRuntimeRunner, OpenVinoRunner


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("kind", [OnnxRuntimeRunner, OpenVinoRunner])
def test_packed_neighbours_do_not_change_a_text(
    architecture: str, kind: type, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The layer attends as the real graph does: each text within itself."""
    sizes = read_architecture(find_model(str(tiny_model(architecture))))
    write_layers(sizes, 2, tmp_path / "layers.onnx")
    runner = kind(tmp_path / "layers.onnx", 1)
    texts = [np.arange(n, dtype=np.int32)[None] * 7 % 1000 for n in (4, 19, 1, 8)]
    batch = flatten(texts)
    together = runner.run(pack(batch, np.arange(batch.count)))[OUTPUT]
    assert together.shape == (4, sizes.hidden)
    for row, text in zip(together, texts, strict=True):
        alone = flatten([text])
        single = runner.run(pack(alone, np.arange(1)))[OUTPUT][0]
        assert np.abs(row - single).max() < 1e-4
    assert np.abs(together[0] - together[1]).max() > 1e-2
