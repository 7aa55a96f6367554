"""Pruning of tiny models of every family, from the weights to the exported graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.check.execute import run_sequences
from build_engines.check.reference import reference_outputs
from build_engines.export.load import load_model
from build_engines.export.onnx import export_onnx
from build_engines.model_files import ModelFiles, find_model
from build_engines.prune import PruneReport, prune_model
from build_engines.spec import ModelSpec, settle_spec
from python_backends.runners import OnnxRuntimeRunner
from tritonforge.recipe import Prune, Recipe

FAMILIES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "electra",
    "modernbert",
    "albert",
    "qwen3",
]
Ids = NDArray[np.int32]


def settled(folder: Path) -> tuple[ModelFiles, ModelSpec]:
    files = find_model(str(folder))
    return files, settle_spec(Recipe(name="toy", model=str(folder)), files)


def texts(spec: ModelSpec, count: int, seed: int) -> list[Ids]:
    """Sequences in which some tokens are frequent, as in text."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, min(40, spec.max_length), count)
    return [(rng.beta(0.5, 2.0, n) * spec.vocab_size).astype(np.int32) for n in sizes]


class Pruned:
    def __init__(self, files: ModelFiles, spec: ModelSpec, folder: Path, **prune: Any) -> None:
        self.dense, self.spec, self.folder = files, spec, folder
        self.files = replace(files, pruned=folder)
        self.held_out = texts(spec, 40, seed=2)
        self.report: PruneReport = prune_model(
            files,
            spec,
            texts(spec, 80, seed=1),
            self.held_out,
            Prune(**{"min_accuracy": 0.0, **prune}),
            folder,
            seed=0,
            progress=lambda line: None,
        )

    def rows(self, files: ModelFiles) -> NDArray[np.float32]:
        return reference_outputs(load_model(files, self.spec.task, "eager"), self.spec, self.held_out)


@pytest.fixture(scope="session")
def pruned(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Pruned]:
    @cache
    def make(family: str, task: str = "embedding", **prune: Any) -> Pruned:
        files, spec = settled(tiny_model(family, task))
        return Pruned(files, spec, tmp_path_factory.mktemp("pruned"), **{"sparsity": 0.4, **prune})

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_smaller(pruned: Callable[..., Pruned], family: str) -> None:
    found = pruned(family)
    dense, small = (load_model(files, "embedding", "eager") for files in (found.dense, found.files))
    sizes = [{name: p.numel() for name, p in model.named_parameters()} for model in (dense, small)]
    assert sizes[0].keys() == sizes[1].keys()
    assert all(sizes[1][name] <= size for name, size in sizes[0].items())
    gone = sum(sizes[0].values()) - sum(sizes[1].values())
    assert gone == found.report.dense_parameters - found.report.parameters > 0
    point = found.report.curve[-1]
    assert point.asked == 0.4 <= point.reached < 0.55
    assert point.parameters == found.report.parameters
    assert 0.4 < found.report.flops_left < 0.7
    left = [*found.report.heads.values(), *found.report.channels.values()]
    assert all(1 <= after <= before for after, before in left)
    assert any(after < before for after, before in left)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_give_the_model_that_was_judged(pruned: Callable[..., Pruned], family: str) -> None:
    """Accuracy, measured anew with eager attention on what was loaded, is what the report says."""
    found = pruned(family)
    dense, small = found.rows(found.dense), found.rows(found.files)
    cosine = (dense * small).sum(1) / np.linalg.norm(dense, axis=1) / np.linalg.norm(small, axis=1)
    assert cosine.mean() == pytest.approx(found.report.accuracy, abs=1e-4)
    assert np.abs(dense - small).max() > 1e-3


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_export(pruned: Callable[..., Pruned], tmp_path: Path, family: str, layout: str) -> None:
    found = pruned(family)
    path = tmp_path / "model.onnx"
    assert export_onnx(found.files, found.spec, layout, path).layout == layout
    runner = OnnxRuntimeRunner(path, threads=1)
    rows = run_sequences(runner, found.spec, layout, found.held_out, 512)  # type: ignore[arg-type]
    np.testing.assert_allclose(rows, found.rows(found.files), atol=1e-4)
