"""`tritonforge estimate`: what people read, what machines read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.errors import RecipeError, UsageError


@pytest.fixture
def recipe(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"name: tiny\nmodel: {tiny_model('bert')}\nthreads: {{engine: 1}}\n")
    return path


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Callable[..., Any]:
    def invoke(*arguments: str, calibrate: bool = False) -> Any:
        where = ["--build-dir", str(tmp_path / "build")]
        chosen = [] if calibrate else ["--no-calibrate"]
        return CliRunner(env={"COLUMNS": "200"}).invoke(
            app, ["estimate", str(recipe), *where, *chosen, *arguments]
        )

    return invoke


def test_tables_for_people(run: Callable[..., Any]) -> None:
    done = run("--qps", "500", "--p99-ms", "50")
    assert done.exit_code == 0, done.output
    for word in (
        "CPU cores (openvino fp32)",
        "parameters",
        "linear layers",
        "kernel cache",
        "H100 SXM 80 GB",
        "not measured: stated defaults",
    ):
        assert word in done.output
    assert "no export of 'tiny'" in done.output


def test_json_for_machines(run: Callable[..., Any]) -> None:
    done = run("--qps", "500", "--p99-ms", "50", "--gpu", "l4", "--gpu", "h100", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {gpu["gpu"]["key"] for gpu in found["gpus"]} == {"l4", "h100-sxm"}
    assert {gpu["precision"] for gpu in found["gpus"]} == {"fp16", "int8"}
    assert found["activations"]["source"] == "formula"
    assert found["model"]["parameters_total"] > 0
    for cpu in found["cpu"]:
        best = cpu["best"]
        assert best["total_cores"] == best["replicas"] * best["cores"]
        assert best["replicas"] * best["rate"] >= 500
        assert best["p99_s"] <= 0.05
        parts = {key: value for key, value in cpu["memory"].items() if key not in {"loaded", "total"}}
        assert sum(parts.values()) - parts["worst_activations"] == cpu["memory"]["total"]


def test_more_load_takes_more(run: Callable[..., Any]) -> None:
    def cores(qps: str) -> int:
        found = json.loads(run("--qps", qps, "--p99-ms", "50", "--gpu", "t4", "--json").stdout)
        return int(found["cpu"][0]["best"]["total_cores"])

    assert cores("1e6") > cores("1e3") >= cores("1")


def test_a_target_that_cannot_be_met_is_said_with_the_figure_and_what_to_try(run: Callable[..., Any]) -> None:
    done = run("--qps", "10", "--p99-ms", "0.1", "--gpu", "t4", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert all(cpu["best"] is None for cpu in found["cpu"])
    assert all(gpu["gpus"] == 0 for gpu in found["gpus"])
    (note,) = (note for note in found["notes"] if note.startswith("openvino"))
    assert "p99 of 0.1 ms cannot be met" in note
    assert "ms at the 99th percentile" in note
    assert "Try" in note
    assert "cannot meet" in run("--qps", "10", "--p99-ms", "0.1").output


@pytest.mark.parametrize(
    ("arguments", "kind", "where"),
    [
        (("--qps", "0"), UsageError, "--qps"),
        (("--qps", "-5"), UsageError, "--qps"),
        (("--qps", "nan"), UsageError, "--qps"),
        (("--qps", "inf"), UsageError, "--qps"),
        (("--qps", "5", "--p99-ms", "0"), UsageError, "--p99-ms"),
        (("--qps", "5", "--utilisation", "1"), UsageError, "--utilisation"),
        (("--qps", "5", "--gpu", "k80"), RecipeError, "--gpu"),
    ],
)
def test_bad_values_are_refused(
    run: Callable[..., Any], arguments: tuple[str, ...], kind: type[UsageError], where: str
) -> None:
    done = run(*arguments)
    assert isinstance(done.exception, kind)
    assert done.exception.exit_code == 2
    assert done.exception.where == where


def test_an_unknown_gpu_lists_the_known_ones(run: Callable[..., Any]) -> None:
    known = str(run("--qps", "5", "--gpu", "k80").exception.mend)
    for name in ("h100", "a100", "l4", "t4"):
        assert name in known


def test_a_calibration_is_kept_and_used_again(run: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ("--qps", "100", "--gpu", "t4", "--json", "--set", "engine=onnxruntime")
    first = json.loads(run(*arguments, calibrate=True).stdout)["cpu"][0]["calibration"]
    kept = list((tmp_path / "build" / "calibration").iterdir())
    assert [path.suffix for path in kept] == [".json"]
    assert json.loads(run(*arguments, calibrate=True).stdout)["cpu"][0]["calibration"] == first
    anew = json.loads(run(*arguments, "--again", calibrate=True).stdout)["cpu"][0]["calibration"]
    assert anew["batch_s"] != first["batch_s"]
    assert all(seconds > 0 for seconds in anew["batch_s"])
    assert anew["batch_s"][-1] > anew["batch_s"][0]


def test_activations_follow_from_the_graph_of_a_build(
    tiny_build: Callable[..., Any], build_root: Path, tmp_path: Path
) -> None:
    context = tiny_build("bert", "embedding").context
    path = tmp_path / "built.yaml"
    path.write_text(f"name: {context.recipe.name}\nmodel: {context.recipe.model}\nthreads: {{engine: 1}}\n")
    options = ["--qps", "5", "--gpu", "t4", "--no-calibrate", "--build-dir", str(build_root), "--json"]
    done = CliRunner().invoke(app, ["estimate", str(path), *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["activations"]["source"] == "graph"
    assert found["gpu_activations"]["usual_bytes"] < found["activations"]["usual_bytes"]


def test_tensorrt_recipes_have_no_cpu_plan(run: Callable[..., Any]) -> None:
    done = run(
        "--qps",
        "5",
        "--set",
        "engine=tensorrt",
        "--set",
        "precision=fp8",
        "--gpu",
        "a100",
        "--gpu",
        "l4",
        "--json",
    )
    found = json.loads(done.stdout)
    assert found["cpu"] == []
    assert [gpu["gpu"]["key"] for gpu in found["gpus"]] == ["l4"]
    assert any("A100" in note and "fp8" in note for note in found["notes"])
