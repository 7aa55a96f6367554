"""`tritonforge recipe`: what it writes, where, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.errors import UsageError
from tritonforge.recipe import Recipe, load_recipe

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that is enough to be looked into."""
    path = tmp_path / "models" / "chat.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


def run(*arguments: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["recipe", *arguments])


def test_the_recipe_lies_here_and_the_next_command_reads_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("new", "models/chat.gguf")
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(Path("chat.yaml").read_text()) == {
        "name": "chat",
        "model": "models/chat.gguf",
        "task": "generation",
    }
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command == ["tritonforge", "build", "chat.yaml"]
    again = CliRunner().invoke(app, [*command[1:], "--print-recipe"])
    assert again.exit_code == 0 and "max_num_seqs" in again.stdout


def test_texts_are_named_from_where_the_recipe_lies(model: Path, tmp_path: Path) -> None:
    texts = tmp_path / "recipes" / "mails.txt"
    texts.parent.mkdir()
    texts.write_text("Where is my parcel?\n")
    output = texts.parent / "chat.yaml"
    done = run("new", str(model), "--texts", str(texts), "--output", str(output), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["recipe"] == str(output)
    assert yaml.safe_load(output.read_text())["calibration"] == {"texts": "mails.txt"}
    recipe = load_recipe(output)
    assert recipe.calibration.texts == str(texts)
    assert recipe.precision == "auto"
    assert recipe.model == str(model)


def test_nothing_is_overwritten_unasked(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("name: mine\n")
    done = run("new", str(model), "-o", str(output))
    assert isinstance(done.exception, UsageError) and "--force" in str(done.exception)
    assert output.read_text() == "name: mine\n"
    assert run("new", str(model), "-o", str(output), "--force").exit_code == 0
    assert load_recipe(output).name == "chat"


def test_texts_that_are_not_there_are_refused(model: Path, tmp_path: Path) -> None:
    done = run("new", str(model), "-o", str(tmp_path / "a.yaml"), "--texts", str(tmp_path / "none.txt"))
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "a.yaml").exists()


def test_the_schema_takes_our_recipes_and_refuses_what_is_wrong() -> None:
    done = run("schema")
    assert done.exit_code == 0, done.output
    schema = json.loads(done.stdout)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for path in sorted((CHECKOUT / "recipes").glob("*.yaml")):
        validator.validate(yaml.safe_load(path.read_text()))
    validator.validate(Recipe(name="a", model="m").model_dump(mode="json"))
    for wrong in (
        {"name": "a"},
        {"name": "a", "model": "m", "presicion": "fp32"},
        {"name": "A", "model": "m"},
    ):
        assert not validator.is_valid(wrong)
