"""Pruning of tiny models of every family, from the weights to the exported graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import load_file

from build_engines.check.execute import run_sequences
from build_engines.check.reference import reference_outputs
from build_engines.export.load import load_model
from build_engines.export.onnx import export_onnx
from build_engines.model_files import ModelFiles, find_model
from build_engines.prune import PruneReport, load_pruned, prune_model
from build_engines.spec import ModelSpec, settle_spec
from python_backends.runners import OnnxRuntimeRunner
from tritonforge.errors import PruningError
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
Make = Callable[..., "Pruned"]


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
def pruned(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    @cache
    def make(family: str, task: str = "embedding", **prune: Any) -> Pruned:
        files, spec = settled(tiny_model(family, task))
        return Pruned(files, spec, tmp_path_factory.mktemp("pruned"), **{"sparsity": 0.4, **prune})

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_smaller(pruned: Make, family: str) -> None:
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
def test_the_files_give_the_model_that_was_judged(pruned: Make, family: str) -> None:
    """Accuracy, measured anew with eager attention on what was loaded, is what the report says."""
    found = pruned(family)
    dense, small = found.rows(found.dense), found.rows(found.files)
    cosine = (dense * small).sum(1) / np.linalg.norm(dense, axis=1) / np.linalg.norm(small, axis=1)
    assert cosine.mean() == pytest.approx(found.report.accuracy, abs=1e-4)
    assert np.abs(dense - small).max() > 1e-3


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_export(pruned: Make, tmp_path: Path, family: str, layout: str) -> None:
    found = pruned(family)
    path = tmp_path / "model.onnx"
    assert export_onnx(found.files, found.spec, layout, path).layout == layout
    runner = OnnxRuntimeRunner(path, threads=1)
    rows = run_sequences(runner, found.spec, layout, found.held_out, 512)
    np.testing.assert_allclose(rows, found.rows(found.files), atol=1e-4)


def test_the_report_fits_json_and_is_beside_the_weights(pruned: Make) -> None:
    found = pruned("bert")
    facts = json.loads((found.folder / "pruning.json").read_text())
    assert facts["report"] == json.loads(json.dumps(found.report.as_dict()))
    assert [point.asked for point in found.report.curve] == [0.1, 0.2, 0.3, 0.4]
    reached = [point.reached for point in found.report.curve]
    assert reached == sorted(reached)
    assert sorted(path.name for path in found.folder.iterdir()) == ["pruned.safetensors", "pruning.json"]


def test_the_same_seed_gives_the_same_model(pruned: Make, tmp_path: Path) -> None:
    found = pruned("bert", distill_steps=4)
    again = Pruned(found.dense, found.spec, tmp_path, sparsity=0.4, distill_steps=4)
    assert again.report.losses == found.report.losses
    np.testing.assert_allclose(again.rows(again.files), found.rows(found.files), atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "qwen3"])
def test_distillation_helps(pruned: Make, family: str) -> None:
    report = pruned(family, distill_steps=60).report
    assert report.accuracy > report.accuracy_before_distillation == report.curve[-1].accuracy
    assert report.distill_steps == 60
    assert np.isfinite(report.losses).all()


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "albert"])
def test_classifiers(pruned: Make, family: str) -> None:
    """Accuracy is the share of equal labels, and the pruned classifier can be exported."""
    found = pruned(family, "classification")
    dense, small = found.rows(found.dense), found.rows(found.files)
    assert (dense.argmax(1) == small.argmax(1)).mean() == pytest.approx(found.report.accuracy, abs=1e-6)
    path = found.folder.parent / f"{found.folder.name}.onnx"
    assert export_onnx(found.files, found.spec, "packed", path).layout == "packed"
    rows = run_sequences(OnnxRuntimeRunner(path, threads=1), found.spec, "packed", found.held_out, 512)
    np.testing.assert_allclose(rows, small, atol=1e-4)


@pytest.mark.parametrize(("kind", "other"), [("heads", "channels"), ("channels", "heads")])
def test_one_kind_alone(pruned: Make, kind: str, other: str) -> None:
    report = pruned("bert", sparsity=0.2, **{other: False}).report
    assert any(after < before for after, before in getattr(report, kind).values())
    assert all(after == before for after, before in getattr(report, other).values())


def test_channels_go_in_blocks(pruned: Make) -> None:
    """Of 64 channels, 4 at a time: a block of 32 would leave two choices."""
    left = [after for after, _ in pruned("bert").report.channels.values()]
    assert all(count % 4 == 0 for count in left)
    single = pruned("bert", sparsity=0.37, channel_multiple=1).report
    assert single.curve[-1].reached - 0.37 < 0.02


def test_nothing_to_prune_changes_nothing(pruned: Make) -> None:
    found = pruned("bert", sparsity=0.0)
    assert found.report.accuracy == 1.0
    assert found.report.parameters == found.report.dense_parameters
    assert load_file(found.folder / "pruned.safetensors") == {}
    np.testing.assert_array_equal(found.rows(found.dense), found.rows(found.files))


def test_too_much_fails_with_the_curve(pruned: Make, tmp_path: Path) -> None:
    found = pruned("bert")
    with pytest.raises(PruningError) as caught:
        Pruned(found.dense, found.spec, tmp_path, sparsity=0.6, min_accuracy=0.9999)
    message = caught.value.what
    assert "below 0.9999" in message
    assert message.count("->") == 1 + 6, message
    for point in found.report.curve:
        assert f"{point.reached:.2f} -> {point.accuracy:.4f}" in message
    assert "distill_steps" in str(caught.value.mend)
    assert list(tmp_path.iterdir()) == []


def test_out_of_reach(pruned: Make, tmp_path: Path) -> None:
    found = pruned("bert")
    with pytest.raises(PruningError, match="cannot be reached"):
        Pruned(found.dense, found.spec, tmp_path, sparsity=0.95)
    with pytest.raises(PruningError, match="cannot be reached"):
        Pruned(found.dense, found.spec, tmp_path, sparsity=0.5, channels=False)


@pytest.mark.parametrize("family", ["deberta-v2", "fnet"])
def test_unknown_families_are_refused(tiny_model: Callable[..., Path], tmp_path: Path, family: str) -> None:
    files, spec = settled(tiny_model(family))
    with pytest.raises(PruningError, match="not known"):
        Pruned(files, spec, tmp_path, sparsity=0.2)


def test_too_little_text(pruned: Make, tmp_path: Path) -> None:
    found = pruned("bert")
    few = texts(found.spec, 3, seed=0)
    with pytest.raises(PruningError, match="too few"):
        prune_model(found.dense, found.spec, few, found.held_out, Prune(sparsity=0.2), tmp_path, seed=0)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_odd_sparsities_are_refused_by_the_recipe(sparsity: float) -> None:
    with pytest.raises(ValidationError):
        Prune(sparsity=sparsity)


def test_weights_of_another_model_are_refused(pruned: Make) -> None:
    found = pruned("bert")
    other = load_model(pruned("modernbert").dense, "embedding", "eager")
    with pytest.raises(PruningError, match="not this model's"):
        load_pruned(other, found.folder)


@pytest.mark.parametrize("name", ["pruned.safetensors", "pruning.json"])
def test_damaged_files_are_refused(pruned: Make, tmp_path: Path, name: str) -> None:
    found = pruned("bert")
    folder = tmp_path / "copy"
    shutil.copytree(found.folder, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(PruningError, match="cannot be read"):
        load_model(replace(found.dense, pruned=folder), "embedding", "eager")
