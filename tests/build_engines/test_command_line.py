"""`tritonforge build`, in this process through Typer and as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import Recipe, dump_recipe, load_recipe


@pytest.fixture
def recipe(tiny_build: Callable[..., Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(tiny_build("bert", "embedding").context.recipe))
    return path


@pytest.fixture
def arguments(recipe: Path, build_root: Path, tmp_path: Path) -> list[str]:
    repository = tmp_path / "repository"
    return ["build", str(recipe), "--repository", str(repository), "--build-dir", str(build_root)]


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tritonforge.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )


def test_tables_for_people(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    for word in (
        "resolve",
        "export",
        "reused",
        "onnxruntime-fp32",
        "openvino-fp32",
        "served",
        "version 1",
        "report.html",
    ):
        assert word in done.stdout
    assert "Traceback" not in done.stderr


def test_json_for_machines(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["status"] == "ok"
    assert report["steps"][-1]["figures"]["repository"] == str(tmp_path / "repository")


def test_options_override_the_recipe(arguments: list[str]) -> None:
    options = ["--engine", "onnxruntime", "--set", "batching.max_batch_size=4", "--until", "check", "--json"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["recipe"]["engine"] == "onnxruntime"
    assert report["recipe"]["batching"]["max_batch_size"] == 4
    assert [step["step"] for step in report["steps"]][-1] == "check"
    assert list(report["steps"][-1]["figures"]) == ["onnxruntime-fp32"]


def test_print_recipe_builds_nothing_and_loads_again(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(f"name: toy\nmodel: {tmp_path}\n")
    result = CliRunner().invoke(app, ["build", str(recipe), "--print-recipe", "--precision", "int8-dynamic"])
    assert result.exit_code == 0
    printed = yaml.safe_load(result.stdout)
    assert set(printed) == set(Recipe.model_fields)
    assert printed["precision"] == "int8-dynamic"
    again = tmp_path / "again.yaml"
    again.write_text(result.stdout)
    assert load_recipe(again) == load_recipe(recipe, ["precision=int8-dynamic"])
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "again.yaml"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "batching.max=3"], "unknown key; allowed here: max_batch_size"),
        (["--set", "nonsense"], "is not key=value"),
        (["--set", "max_length=65"], "positions for 64"),
        (["--until", "deploy"], "is no step"),
        (["--rerun", "deploy"], "is no step"),
        (["--set", "model=/no/such/folder"], "no such model folder"),
        (["--set", "model=package:no-such-package"], "pip install no-such-package"),
        (["--name", "Bad Name"], "pattern"),
        (["--engine", "torch"], "torch"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "does not serve bf16"),
        (["--precision", "int8"], "needs text to calibrate on"),
    ],
)
def test_a_mistake_of_the_user_exits_2(arguments: list[str], options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, [*arguments, *options])
    error = result.exception
    assert isinstance(error, TritonForgeError | SystemExit)
    if isinstance(error, TritonForgeError):
        assert error.exit_code == 2
        assert says in str(error)
    else:  # Typer's own check of the option
        assert result.exit_code == 2
        assert says in result.output


def test_a_bad_recipe_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: toy\nmodel: package:x\nengine: gpu\n")
    done = command("build", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in ("bad.yaml", "engine", "'onnxruntime'", "'gpu'", "--print-recipe"):
        assert word in done.stderr


def test_a_bad_recipe_as_json(tmp_path: Path) -> None:
    done = command("build", "absent.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "error": "RecipeError",
        "what": "no such recipe",
        "where": "absent.yaml",
        "mend": "make one: tritonforge recipe new MODEL_FOLDER",
    }


def test_a_failed_check_exits_1(arguments: list[str], build_root: Path, tmp_path: Path) -> None:
    (tmp_path / "repository").write_text("a file where the folder should be")
    done = command(*arguments)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
