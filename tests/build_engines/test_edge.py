"""Builds for ``target: edge``: what is published fits, and the server keeps to the recipe's memory."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from build_engines.edge import check_files, check_memory
from tests.conftest import Build, TinyModel
from tritonforge.errors import BuildError
from tritonforge.recipe import Recipe
from tritonforge.server import ServerOptions, TritonServer

MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    """Linear layers of 1.6 M weights: with 8 bits still more than a megabyte."""
    return tiny_model("bert", hidden_size=256, intermediate_size=1024)


def recipe(**edge: int) -> Recipe:
    return Recipe.model_validate({"name": "small", "model": "x", "target": "edge", "edge": edge})


@pytest.mark.slow
def test_a_small_model_is_built_and_served_under_its_limit(
    model: Path, build_recipe: Build, tmp_path: Path
) -> None:
    built = build_recipe(
        into=tmp_path, name="small", model=str(model), target="edge", length_mix=[{"tokens": 8}]
    )
    assert built.context.winner.compiled.precision == "int8-weights"
    figures = built.report.step("publish").figures
    assert figures["models"] == ["small_engine", "small"], "one process beside the server"
    edge = figures["edge"]
    assert MIB < edge["files_bytes"] < 20 * MIB
    assert edge["memory_bytes"] == sum(edge["memory"].values())

    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with (tmp_path / "log").open("wb") as log, TritonServer(tmp_path, options, log_sink=log) as server:
        assert server.memory_limit_mib == 2048
        config = httpx.get(f"{server.http_url}/v2/models/small_engine/config", trust_env=False).json()
        assert config["parameters"]["threads"]["string_value"] == "4"
        answer = httpx.post(
            f"{server.http_url}/v2/models/small/generate", json={"text": "a door opens"}, trust_env=False
        )
        assert len(answer.json()["embedding"]) == 256


def test_a_model_that_is_too_large_is_not_published(model: Path, build_recipe: Build, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"published files are \d MB, and target edge allows 1") as caught:
        build_recipe(
            into=tmp_path,
            name="small",
            model=str(model),
            target="edge",
            length_mix=[{"tokens": 8}],
            edge={"max_model_mb": 1},
        )
    assert "int4-weights" in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "not even half of it"


def test_files_are_counted_in_all_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "weights").write_bytes(bytes(600_000))
    one, two = tmp_path / "one", tmp_path / "two"
    assert check_files(recipe(max_model_mb=1), [one]) == 600_000
    with pytest.raises(BuildError, match="1 MB, and target edge allows 1"):
        check_files(recipe(max_model_mb=1), [one, two])


def test_memory_is_added_up_and_the_refusal_says_who_takes_it() -> None:
    parts = {"server": 44 * MIB, "weights": 980 * MIB, "response cache": 0}
    assert check_memory(recipe(max_memory_mib=1024), parts) == 1024 * MIB
    with pytest.raises(BuildError) as caught:
        check_memory(recipe(max_memory_mib=1024), parts | {"kernels": MIB})
    assert "hold 1025 MiB, and target edge allows 1024: server 44, weights 980, kernels 1" in str(
        caught.value
    )
    assert "engine: onnxruntime" in str(caught.value)
