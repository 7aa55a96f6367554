"""The step of the build: what it hands on, and when it is done anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gensim.test.utils import datapath

from build_engines.check.reference import reference_outputs
from build_engines.export.load import load_model
from tritonforge.errors import PruningError, RecipeError


@pytest.fixture(scope="module")
def keys(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lines = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()[:120]
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return {
        "name": "pruned",
        "model": str(tiny_model("bert")),
        "calibration": {"texts": str(file), "samples": 80},
        "gate": {"samples": 30},
        "prune": {"sparsity": 0.3, "min_accuracy": 0.5},
    }


def weights(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)


def test_the_export_is_of_the_pruned_model(
    keys: dict[str, Any], build_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    first = build_recipe(into=tmp_path, until="export", **keys)
    context, figures = first.context, first.report.step("prune").figures
    assert figures["accuracy"] >= 0.5
    assert figures["parameters"] < figures["dense_parameters"]
    assert {"curve", "heads", "channels", "flops_left", "seconds"} <= figures.keys()
    dense = build_recipe(into=tmp_path, until="export", **{**keys, "name": "dense", "prune": {}})
    assert dense.report.step("prune").status == "skipped"
    gone = weights(dense.context.exported) - weights(context.exported)
    assert gone == pytest.approx(figures["dense_parameters"] - figures["parameters"], abs=64)

    pruned = load_model(context.served_model, context.settled.task, "eager")
    rows = reference_outputs(pruned, context.settled, context.texts.held_out)
    cosine = (rows * context.reference).sum(1)
    cosine /= np.linalg.norm(rows, axis=1) * np.linalg.norm(context.reference, axis=1)
    assert cosine.mean() == pytest.approx(figures["accuracy"], abs=1e-4)

    assert build_recipe(into=tmp_path, until="prune", **keys).report.step("prune").status == "reused"
    other = {**keys, "prune": {"sparsity": 0.2, "min_accuracy": 0.5}}
    assert build_recipe(into=tmp_path, until="prune", **other).report.step("prune").status == "done"


def test_what_loses_too_much_ends_the_build(
    keys: dict[str, Any], build_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(PruningError, match=r"below 0.9999; .*0\.1\d -> "):
        build_recipe(into=tmp_path, **{**keys, "prune": {"sparsity": 0.5, "min_accuracy": 0.9999}})
    assert list(tmp_path.iterdir()) == []


def test_text_is_needed(keys: dict[str, Any], build_recipe: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs text"):
        build_recipe(into=tmp_path, **{**keys, "calibration": {}})
