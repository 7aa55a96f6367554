"""`tritonforge benchmark`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import dump_recipe


@pytest.fixture
def arguments(tiny_build: Callable[..., Any], build_root: Path, tmp_path: Path) -> list[str]:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(tiny_build("bert", "embedding").context.recipe))
    quick = ["--batch", "1,2", "--lengths", "4,mix", "--seconds", "0"]
    return ["benchmark", str(path), "--build-dir", str(build_root), *quick, "--output", str(tmp_path / "out")]


def test_a_table_for_people_and_a_page(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    for word in (
        "openvino-fp32",
        "onnxruntime-fp32",
        "tokens/s",
        "to fp32",
        "2 texts of 4 tokens",
        "1 text of the length mix",
    ):
        assert word in result.output
    assert str(tmp_path / "out" / "benchmark.html") in result.output.replace("\n", "")
    assert (tmp_path / "out" / "benchmark.html").exists()


def test_json_for_machines(arguments: list[str], tmp_path: Path) -> None:
    options = ["--engine", "onnxruntime,openvino", "--precision", "fp32,bf16", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert set(told["engines"]) == {"onnxruntime-fp32", "openvino-fp32", "openvino-bf16"}
    assert {cell["length"] for cell in told["cells"]} == {4, "mix"}
    assert {facts["threads"] for facts in told["engines"].values()} == {1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch", "1,x"], "--batch 'x' is no positive number"),
        (["--batch", "0"], "is no positive number"),
        (["--batch", ","], "--batch is empty"),
        (["--lengths", "4,long"], "--lengths 'long'"),
        (["--engine", "triton"], "--engine 'triton' is not known"),
        (["--precision", "fp32,int3"], "--precision 'int3' is not known"),
        (["--lengths", "4000"], "max_length 64"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "does not serve bf16"),
    ],
)
def test_a_mistake_of_the_user_exits_2(arguments: list[str], options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, [*arguments, *options])
    assert isinstance(result.exception, TritonForgeError)
    assert result.exception.exit_code == 2
    assert says in str(result.exception)
