"""Pruning a real model, by its recipe, on real text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from build_engines.check.execute import run_sequences
from build_engines.check.reference import reference_outputs
from build_engines.export.load import load_model
from build_engines.export.onnx import export_onnx
from build_engines.model_files import ModelFiles, find_model
from build_engines.prune import prune_model
from build_engines.repository.tokenizer import write_tokenizer
from build_engines.spec import ModelSpec, settle_spec
from build_engines.texts import TextSet, load_text_set
from python_backends.runners import OnnxRuntimeRunner
from tritonforge.recipe import Prune, load_recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "minilm.yaml"
Given = tuple[ModelFiles, ModelSpec, TextSet]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    recipe = load_recipe(RECIPE)
    recipe = recipe.model_copy(
        update={
            "calibration": recipe.calibration.model_copy(update={"samples": 80}),
            "gate": recipe.gate.model_copy(update={"samples": 40}),
        }
    )
    files = find_model(recipe.model)
    spec = settle_spec(recipe, files)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(files, spec, path)
    return files, spec, load_text_set(recipe, spec, Tokenizer.from_file(str(path)))


def test_a_fifth_goes_and_the_graph_is_smaller(given: Given, tmp_path: Path) -> None:
    files, spec, texts = given
    prune = Prune(sparsity=0.2, min_accuracy=0.9)
    report = prune_model(files, spec, texts.calibration, texts.held_out, prune, tmp_path, seed=0)
    assert 0.2 <= report.curve[-1].reached < 0.21
    assert report.curve[0].accuracy > report.accuracy > 0.9
    # 10.6 M parameters are in heads and channels.
    assert report.dense_parameters - report.parameters == pytest.approx(0.2 * 10.63e6, rel=0.03)
    assert all(count % 32 == 0 for count, _ in report.channels.values())

    path = tmp_path / "model.onnx"
    pruned = replace(files, pruned=tmp_path)
    assert export_onnx(pruned, spec, "packed", path).layout == "packed"
    sizes = [int(np.prod(t.dims)) for t in onnx.load(path).graph.initializer]
    assert sum(sizes) < report.dense_parameters - 0.19 * 10.63e6
    texts_few = texts.held_out[:24]
    expected = reference_outputs(load_model(pruned, spec.task, "eager"), spec, texts_few)
    rows = run_sequences(OnnxRuntimeRunner(path, threads=1), spec, "packed", texts_few, 4096)
    np.testing.assert_allclose(rows, expected, atol=1e-4)
