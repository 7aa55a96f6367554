"""`tritonforge validate` on a published tiny model, whole and spoilt."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gensim.test.utils import datapath
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.errors import RepositoryError

NAME = "validate-toy"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:80]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(
    build_recipe: Callable[..., Any],
    tiny_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    texts: Path,
) -> Path:
    """A folder with the model and the repository that was built of it."""
    root = tmp_path_factory.mktemp("validate")
    shutil.copytree(tiny_model("bert"), root / "model")
    build_recipe(
        into=root / "repository",
        name=NAME,
        model=str(root / "model"),
        engine="onnxruntime",
        threads={"engine": 1},
        length_mix=[{"tokens": 8}, {"tokens": 32}],
        calibration={"texts": str(texts), "samples": 40},
        gate={"samples": 40},
    )
    return root


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(made / "repository", tmp_path / "repository")


def run(repository: Path, *options: str) -> tuple[int, dict[str, Any]]:
    arguments = ["validate", NAME, "--repository", str(repository), "--json", *options]
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def spoil(repository: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    """Change the weights of the published engine."""
    path = repository / f"{NAME}_engine" / "1" / "model.onnx"
    model = onnx.load(path)
    path.unlink()  # it is a hard link to the build's own
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 2 and value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(change(value).astype(np.float32), tensor.name))
    onnx.save(model, path)


def test_what_was_just_built_passes(repository: Path) -> None:
    code, found = run(repository)
    assert code == 0
    assert (found["model"], found["version"], found["passed"]) == (NAME, 1, True)
    model, engine = found["verdicts"]
    assert model["subject"] == "model" and engine["subject"] == "onnxruntime-fp32"
    checks = {check["name"]: check for check in engine["checks"]}
    assert checks["outputs"]["figure"] < 1e-4
    assert checks["accuracy.mean_cosine"]["detail"].startswith("40 held-out texts")
    assert checks["speed"]["outcome"] == "skipped"


def test_a_part_of_it_names_it_too(repository: Path) -> None:
    result = CliRunner().invoke(
        app, ["validate", f"{NAME}_engine", "--repository", str(repository), "--json"]
    )
    assert result.exit_code == 0, result.output


def test_the_table_of_a_rounded_engine(repository: Path) -> None:
    spoil(repository, lambda value: np.round(value * 2) / 2)
    done = subprocess.run(
        [sys.executable, "-m", "tritonforge.cli", "validate", NAME, "--repository", str(repository)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == 1, done.stderr
    for words in ("accuracy.mean_cosine", "fail", "0.9950", "accuracy.mean_cosine failed", "mend", "text "):
        assert words in done.stdout
    assert "Traceback" not in done.stderr


def test_a_nan_in_the_published_engine(repository: Path) -> None:
    def plant(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        changed = value.copy()
        changed[0, 0] = math.nan
        return changed

    spoil(repository, plant)
    code, found = run(repository)
    assert code == 1
    failed = {check["name"] for check in found["verdicts"][1]["checks"] if check["outcome"] == "fail"}
    assert "outputs" in failed and "accuracy.min_cosine" in failed


def test_a_nan_in_the_model_folder(made: Path, repository: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "model", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 5] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    path = repository / NAME / "tritonforge.json"
    manifest = json.loads(path.read_text())
    manifest["build"]["recipe"]["model"] = str(folder)
    path.write_text(json.dumps(manifest))
    code, found = run(repository)
    assert code == 1
    assert [verdict["subject"] for verdict in found["verdicts"]] == ["model"]
    failed = [check for check in found["verdicts"][0]["checks"] if check["outcome"] == "fail"]
    assert failed[0]["worst"][0]["tensor"] == "embeddings.word_embeddings.weight"


def test_other_texts_and_labelled_data(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("It rains.\nThe match was lost.\nIt rains.\nA fire near Sydney\n")
    pairs = [
        {"text": "It rains.", "text_pair": "A fire near Sydney", "score": 1},
        {"text": "It rains.", "text_pair": "It rained.", "score": 5},
        {"text": "The match", "text_pair": "A game", "score": 3},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    code, found = run(
        repository, "--texts", str(tmp_path / "other.txt"), "--labelled", str(tmp_path / "pairs.jsonl")
    )
    assert code == 0
    checks = {check["name"]: check for check in found["verdicts"][1]["checks"]}
    assert checks["accuracy.mean_cosine"]["detail"].startswith("3 held-out texts")
    assert checks["metric.spearman"]["outcome"] == "pass"


def test_texts_in_another_language(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "amharic.txt").write_text("ሰላም ለሁሉም ሰው\nዛሬ ነገ ውሃ ቤት\n", encoding="utf-8")
    code, found = run(repository, "--texts", str(tmp_path / "amharic.txt"))
    assert code == 1
    assert [c["name"] for c in found["verdicts"][0]["checks"] if c["outcome"] == "fail"] == ["text.unknown"]


def test_a_model_that_is_not_there(repository: Path) -> None:
    result = CliRunner().invoke(app, ["validate", "absent", "--repository", str(repository)])
    assert isinstance(result.exception, RepositoryError)
    assert result.exception.mend and NAME in result.exception.mend


@pytest.mark.parametrize("manifest", ["{}", "not json", '{"recipe": "validate-toy", "version": 1}'])
def test_a_manifest_that_says_too_little(repository: Path, manifest: str) -> None:
    (repository / NAME / "tritonforge.json").write_text(manifest)
    with pytest.raises(RepositoryError, match="does not say") as caught:
        run(repository)
    assert caught.value.mend and "build" in caught.value.mend


def test_a_missing_engine_file(repository: Path) -> None:
    (repository / f"{NAME}_engine" / "1" / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match="missing"):
        run(repository)


# -- speed, and what was forced


@pytest.fixture(scope="module")
def forced(made: Path, build_root: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 engine that the gate refused, published with force."""
    from build_engines.pipeline import build, make_context
    from tritonforge.recipe import Recipe

    keys = {
        "name": NAME,
        "model": str(made / "model"),
        "engine": "onnxruntime",
        "precision": "int8-dynamic",
        "threads": {"engine": 1},
        "length_mix": [{"tokens": 8}, {"tokens": 32}],
        "calibration": {"texts": str(texts), "samples": 40},
        # Speed alone is to fail; without VNNI, sums of ONNX Runtime's INT8 saturate.
        "gate": {"samples": 40, "overlap": 0, "mean_cosine": 0.95, "min_cosine": 0.85, "min_speedup": 1000},
    }
    repository = tmp_path_factory.mktemp("forced") / "repository"
    build(make_context(Recipe.model_validate(keys), Path("toy.yaml"), repository, build_root, force=True))
    return repository


def test_speed_is_measured_against_the_float32_that_the_build_left(forced: Path, build_root: Path) -> None:
    code, found = run(forced, "--build-dir", str(build_root))
    assert code == 1
    checks = {check["name"]: check for check in found["verdicts"][1]["checks"]}
    assert checks["speed"]["outcome"] == "fail"
    assert 0 < checks["speed"]["figure"] < 1000 == checks["speed"]["threshold"]
    assert "--force" in checks["forced"]["detail"]


def test_without_the_builds_artefacts_speed_is_left_out(forced: Path, tmp_path: Path) -> None:
    code, found = run(forced, "--build-dir", str(tmp_path))
    assert code == 0
    checks = {check["name"]: check for check in found["verdicts"][1]["checks"]}
    assert checks["speed"]["outcome"] == "skipped"
    assert "no float32 engine" in checks["speed"]["detail"]
