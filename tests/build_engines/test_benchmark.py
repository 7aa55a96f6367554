"""Measuring by batch size and length, with real engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from build_engines.benchmark import Benchmark, Grid, run_benchmark, served_precisions, write_benchmark
from build_engines.benchmark.measure import in_turns
from build_engines.pipeline import make_context
from tritonforge.errors import BuildError, EngineError, UsageError
from tritonforge.recipe import Recipe

PARTS = ("onnxruntime-fp32", "openvino-fp32")


@pytest.fixture(scope="module")
def recipe(tiny_build: Callable[..., Any]) -> Recipe:
    found: Recipe = tiny_build("bert", "embedding").context.recipe
    return found


def contexts(recipe: Recipe, root: Path, *precisions: str) -> list[Any]:
    recipes = [recipe.model_copy(update={"precision": precision}) for precision in precisions]
    return [make_context(one, Path("toy.yaml"), root / "none", root) for one in recipes]


@pytest.fixture(scope="module")
def measured(recipe: Recipe, build_root: Path) -> Benchmark:
    grid = Grid(batches=(1, 3), lengths=(4, "mix", 999), seconds=0.02, threads=2)
    return run_benchmark(contexts(recipe, build_root, "fp32"), grid)


def test_every_cell_is_measured(measured: Benchmark) -> None:
    found = [(cell.length, cell.batch, cell.part) for cell in measured.cells]
    assert found == list(product((4, "mix"), (1, 3), PARTS))
    for cell in measured.cells:
        assert cell.rounds >= 5
        assert 0 < cell.p50_ms <= cell.p90_ms <= cell.p99_ms
        assert cell.tokens_per_second == pytest.approx(cell.texts_per_second * cell.tokens / cell.batch)
        assert cell.speedup == pytest.approx(1.0)
        if cell.length == 4:
            assert cell.tokens == 4 * cell.batch
        else:
            assert 8 * cell.batch <= cell.tokens <= 32 * cell.batch
    assert len(measured.notes) >= 1 and "999" in measured.notes[0]
    assert {facts["threads"] for facts in measured.engines.values()} == {2}
    assert {"onnxruntime", "openvino", "tritonforge"} <= set(measured.versions)


def test_the_time_asked_for_is_spent(measured: Benchmark) -> None:
    for cell in measured.cells:
        mates = [c for c in measured.cells if (c.length, c.batch) == (cell.length, cell.batch)]
        spent = sum(c.rounds * c.batch / c.texts_per_second for c in mates)
        assert spent >= 0.02 * len(PARTS)
        assert {c.rounds for c in mates} == {cell.rounds}


def test_several_precisions_stand_beside_their_fp32(recipe: Recipe, build_root: Path) -> None:
    before = (build_root / recipe.name / "report.json").read_bytes()
    grid = Grid(batches=(2,), lengths=(4,), seconds=0.0)
    done = run_benchmark(contexts(recipe, build_root, "int8-dynamic", "fp32"), grid)
    assert set(done.engines) == {*PARTS, "onnxruntime-int8-dynamic", "openvino-int8-dynamic"}
    taken = {cell.part: cell.batch / cell.texts_per_second for cell in done.cells}
    for cell in done.cells:
        engine = str(done.engines[cell.part]["engine"])
        assert cell.speedup == pytest.approx(taken[f"{engine}-fp32"] / taken[cell.part])
    assert (build_root / recipe.name / "report.json").read_bytes() == before, "the build's report was touched"


def test_a_model_that_takes_no_such_length(recipe: Recipe, build_root: Path) -> None:
    with pytest.raises(UsageError, match="max_length 64"):
        run_benchmark(contexts(recipe, build_root, "fp32"), Grid(lengths=(65, 999)))


def test_an_engine_that_cannot_load_is_left_out(recipe: Recipe, build_root: Path, tmp_path: Path) -> None:
    shutil.copytree(build_root / recipe.name, tmp_path / recipe.name)
    grid = Grid(batches=(1,), lengths=(4,), seconds=0.0)
    for model in (tmp_path / recipe.name).glob("artifacts/compile-openvino-fp32-*/model/model.xml"):
        model.write_text("no model")
    done = run_benchmark(contexts(recipe, tmp_path, "fp32"), grid)
    assert list(done.engines) == ["onnxruntime-fp32"]
    assert "OpenVINO refuses" in done.skipped["openvino-fp32"]
    for model in (tmp_path / recipe.name).glob("artifacts/compile-onnxruntime-fp32-*/model/model.onnx"):
        model.write_text("no model")
    with pytest.raises(EngineError, match="refuses the model"):
        run_benchmark(contexts(recipe, tmp_path, "fp32"), grid)


def test_both_forms_are_written(measured: Benchmark, tmp_path: Path) -> None:
    page = write_benchmark(measured, tmp_path / "new" / "folder")
    assert sorted(path.name for path in page.parent.iterdir()) == ["benchmark.html", "benchmark.json"]
    told = json.loads((page.parent / "benchmark.json").read_text())
    assert told == json.loads(json.dumps(measured.as_dict()))
    assert len(told["cells"]) == 8
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot write"):
        write_benchmark(measured, tmp_path / "file" / "folder")


def test_turns_begin_with_another_part_each_time() -> None:
    calls: list[tuple[str, int]] = []

    def measure(part: str, number: int) -> float:
        calls.append((part, number))
        return 1.0

    taken = in_turns(["a", "b", "c"], measure, seconds=6.0)
    assert {part: len(times) for part, times in taken.items()} == {"a": 6, "b": 6, "c": 6}
    rounds = ["".join(part for part, _ in calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == ["abc", "abc", "abc", "bca", "cab", "abc", "bca", "cab"]
    assert [number for _, number in calls[6::3]] == [0, 1, 2, 3, 4, 5]


def test_precisions_that_an_engine_serves(recipe: Recipe) -> None:
    named = recipe.model_copy(update={"engine": "onnxruntime"})
    assert "bf16" not in served_precisions(named)
    assert {"auto", "fp32", "bf16"} <= served_precisions(recipe)
