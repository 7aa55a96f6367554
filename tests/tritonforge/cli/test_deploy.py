"""`tritonforge deploy render`: real recipes, one and several, for every target."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.render import TARGETS
from deploy.sizing import SizingError
from tests.deploy.samples import SHA256
from tritonforge.cli import app
from tritonforge.cli.deploy import Target
from tritonforge.errors import ModelFilesError, RecipeError, TritonForgeError, UsageError


@pytest.fixture
def recipes(tiny_model: Callable[..., Path], tiny_generator: Path, tmp_path: Path) -> dict[str, Path]:
    texts = {
        "tiny": f"name: tiny\nmodel: {tiny_model('bert')}\n",
        "spam_filter": f"name: spam_filter\nmodel: {tiny_model('bert', 'classification')}\n",
        "talk": f"name: talk\nmodel: {tiny_generator}\ntask: generation\n",
        "fast": f"name: fast\nmodel: {tiny_model('bert')}\nengine: tensorrt\nprecision: fp16\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return {name: tmp_path / f"{name}.yaml" for name in texts}


@pytest.fixture
def run(recipes: dict[str, Path], tmp_path: Path) -> Callable[..., Any]:
    def invoke(target: str, *arguments: str, names: tuple[str, ...] = ("tiny",)) -> Any:
        where = ["--output", str(tmp_path / "out" / target), "--build-dir", str(tmp_path / "build")]
        where += ["--repository", str(tmp_path / "repository")]
        chosen = [str(recipes[name]) for name in names]
        return CliRunner(env={"COLUMNS": "200"}).invoke(
            app, ["deploy", "render", "--target", target, *where, *arguments, *chosen]
        )

    return invoke


def source(target: str) -> tuple[str, ...]:
    """Where a target that mounts nothing by itself gets the models from."""
    return ("--source", "s3://models.example.com/a.tar", "--sha256", SHA256) if target == "ecs" else ()


def test_the_options_name_every_target() -> None:
    assert {target.value for target in Target} == TARGETS.keys()


@pytest.mark.parametrize(
    ("target", "names"),
    [("kserve", ("tiny",)), *((target, ("tiny", "spam_filter", "talk")) for target in TARGETS)],
)
def test_recipes_for_every_target(
    run: Callable[..., Any], target: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(target, "--json", *source(target), names=names)
    assert done.exit_code == 0, done.output + repr(done.exception)
    found = json.loads(done.stdout)
    assert [model["name"] for model in found["models"]] == list(names)
    assert found["models"][0]["parts"] == ["tiny", "tiny_engine", "tiny_tokenizer"]
    assert found["cpu"] >= 1 and found["memory_bytes"] > sum(m["memory_bytes"] for m in found["models"])
    files = [Path(file) for file in found["files"]]
    assert files and all(file.is_file() for file in files)
    text = "\n".join(file.read_text() for file in files)
    for name in names:
        assert name in text


def test_a_gpu(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("kserve", "--json", "--gpu", "h100", names=("fast", "tiny"))
    assert done.exit_code == 0, done.output + repr(done.exception)
    found = json.loads(done.stdout)
    assert found["gpus"] == 1
    assert found["server_image"].endswith("-gpu")
    assert found["models"][0]["parts"] == ["fast", "fast_fanout", "fast_engine", "fast_tokenizer"]
    assert any("h100" in note.lower() for note in found["notes"])


def test_for_people(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("kserve", "--replicas", "2", "--name", "search")
    assert done.exit_code == 0, done.output
    assert "search: tiny (" in done.output and "2 to 4 servers" in done.output
    assert "standard/inferenceservice-tiny.yaml" in done.output
    assert "note: no --source" in done.output


def test_more_load_takes_more(run: Callable[..., Any]) -> None:
    few, many = (json.loads(run("helm", "--json", "--qps", qps).stdout) for qps in ("10", "20000"))
    assert many["cpu"] * many["replicas"] > few["cpu"] * few["replicas"]


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        (("--p99-ms", "0.001"), SizingError, "no number of CPU servers"),
        (("--qps", "0"), UsageError, "positive"),
        (("--server-image", "a:latest"), UsageError, "may be another image"),
        (("--source", "models"), UsageError, "cannot read models"),
        (("--sha256", "abc"), UsageError, "needs an archive"),
        (("--replicas", "3", "--max-replicas", "2"), UsageError, "at most --max-replicas"),
        (("--name", "Not A Name"), UsageError, "DNS label"),
    ],
)
def test_refused(
    run: Callable[..., Any],
    arguments: tuple[str, ...],
    error: type[TritonForgeError],
    what: str,
    tmp_path: Path,
) -> None:
    done = run("kserve", *arguments)
    assert isinstance(done.exception, error), done.output
    assert what in str(done.exception)
    assert done.exception.mend or "--qps" in str(done.exception) or "--replicas" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_recipes_that_are_none(run: Callable[..., Any], recipes: dict[str, Path], tmp_path: Path) -> None:
    recipes["none"] = tmp_path / "none.yaml"
    assert isinstance(run("helm", names=("none",)).exception, RecipeError)
    recipes["gone"] = tmp_path / "gone.yaml"
    recipes["gone"].write_text("name: gone\nmodel: ./nowhere\n")
    assert isinstance(run("helm", names=("gone",)).exception, ModelFilesError)
    done = run("helm", names=("tiny", "tiny"))
    assert isinstance(done.exception, UsageError) and "several recipes" in str(done.exception)
