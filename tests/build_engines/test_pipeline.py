"""The steps together, on a tiny model whose export other tests share."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engines.gate.published import find_published
from build_engines.pipeline import build, make_context
from build_engines.steps import STEP_NAMES
from build_engines.steps import publish as publish_step
from tritonforge.errors import BuildError, ParityError, RecipeError, UsageError
from tritonforge.recipe import Recipe

MODELS = ("bert-embedding", "bert-embedding_engine", "bert-embedding_tokenizer")


class Pipeline:
    """Builds the tiny model again, with other settings, into a repository of its own."""

    def __init__(self, recipe: Recipe, build_root: Path, repository: Path) -> None:
        self.keys = recipe.model_dump()
        self.build_root = build_root
        self.repository = repository

    def __call__(
        self, *, until: str | None = None, rerun: str | None = None, into: Path | None = None, **keys: Any
    ) -> Any:
        recipe = Recipe.model_validate({**self.keys, **keys})
        context = make_context(recipe, Path("toy.yaml"), into or self.repository, self.build_root, rerun)
        return build(context, until)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.build_root / "bert-embedding" / "report.json").read_text())
        return found


@pytest.fixture
def pipeline(tiny_build: Callable[..., Any], build_root: Path, tmp_path: Path) -> Pipeline:
    recipe = tiny_build("bert", "embedding").context.recipe
    return Pipeline(recipe, build_root, tmp_path / "repository")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def statuses(report: Any) -> dict[str, str]:
    return {step.step: step.status for step in report.steps}


# -- what is made once


def test_the_second_build_reuses_everything(pipeline: Pipeline) -> None:
    assert statuses(pipeline())["publish"] == "done"
    before = tree(pipeline.repository)
    second = pipeline()
    assert statuses(second) == {
        "resolve": "done",
        "tokenize": "reused",
        "prune": "skipped",
        "export": "reused",
        "quantize": "skipped",
        "compile": "reused",
        "check": "reused",
        "measure": "reused",
        "gate": "reused",
        "publish": "reused",
    }
    assert tree(pipeline.repository) == before
    assert second.step("publish").figures["version"] == 1


def test_a_build_that_reuses_everything_needs_no_torch(pipeline: Pipeline) -> None:
    pipeline()
    script = """
import json, sys
from pathlib import Path
from build_engines.pipeline import build, make_context
from tritonforge.recipe import Recipe
keys, repository, root = json.loads(sys.stdin.read())
report = build(make_context(Recipe.model_validate(keys), Path("toy.yaml"), Path(repository), Path(root)))
assert all(step.status in ("reused", "skipped") for step in report.steps[1:]), report.steps
print(sorted({"torch", "transformers", "onnxruntime", "openvino"} & set(sys.modules)))
"""
    told = json.dumps([pipeline.keys, str(pipeline.repository), str(pipeline.build_root)])
    done = subprocess.run([sys.executable, "-c", script], input=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_other_batching_publishes_the_same_engine_anew(pipeline: Pipeline) -> None:
    pipeline()
    second = pipeline(batching={"max_batch_size": 8})
    done = {name for name, status in statuses(second).items() if status == "done"}
    assert done == {"resolve", "gate", "publish"}
    assert second.step("publish").figures["version"] == 2
    engine = pipeline.repository / "bert-embedding_engine"
    assert "max_batch_size: 8" in (engine / "config.pbtxt").read_text()
    assert sorted(path.name for path in engine.iterdir() if path.is_dir()) == ["1", "2"]
    weights = [path for path in engine.glob("*/model.*") if path.suffix in {".onnx", ".bin"}]
    assert len(weights) == 2
    assert weights[0].samefile(weights[1]), "the weights lie on the disk twice"


def test_other_traffic_is_measured_and_nothing_else(pipeline: Pipeline) -> None:
    pipeline()
    done = statuses(pipeline(length_mix=[{"tokens": 3}]))
    assert (done["compile"], done["check"], done["measure"]) == ("reused", "reused", "done")


def test_another_float_part_is_compiled_judged_and_published(pipeline: Pipeline) -> None:
    keys: dict[str, Any] = {
        "engine": "openvino",
        "precision": "int8-weights",
        "gate": {"min_speedup": 0.0, "min_cosine": 0.0, "mean_cosine": 0.9},
    }
    pipeline(**keys)
    done = statuses(pipeline(**keys, openvino={"float_part": "bf16"}))
    assert (done["export"], done["compile"], done["check"], done["gate"]) == ("reused", *["done"] * 3)
    published = find_published(pipeline.repository, "bert-embedding")
    assert published.compiled.float_part == "bf16"
    text = (pipeline.repository / "bert-embedding_engine" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.parameters["float_part"].string_value == "bf16"


def test_a_step_can_be_done_anew(pipeline: Pipeline) -> None:
    pipeline()
    done = statuses(pipeline(rerun="check", until="check"))
    assert {name for name, status in done.items() if status == "done"} == {"resolve", "check"}
    assert list(done)[-1] == "check"
    assert statuses(pipeline(rerun="publish"))["publish"] == "done"


@pytest.mark.parametrize("last", STEP_NAMES)
def test_until(pipeline: Pipeline, last: str) -> None:
    assert list(statuses(pipeline(until=last))) == list(STEP_NAMES[: STEP_NAMES.index(last) + 1])
    assert pipeline.repository.exists() == (last == "publish")


def test_another_model_in_the_same_place_is_another_export(
    pipeline: Pipeline, build_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    """Only up to the export's key: the content decides, not the path."""
    from build_engines.steps import STEPS

    def key(model: Path) -> str:
        recipe = Recipe.model_validate({**pipeline.keys, "model": str(model)})
        context = make_context(recipe, Path("toy.yaml"), pipeline.repository, pipeline.build_root)
        for step in STEPS[: STEP_NAMES.index("export") + 1]:
            step.run(context)
        return context.keys["export"]

    moved = shutil.copytree(pipeline.keys["model"], tmp_path / "moved")
    assert key(moved) == key(Path(pipeline.keys["model"]))


# -- the repository


def test_what_is_published(pipeline: Pipeline) -> None:
    report = pipeline()
    assert sorted(path.name for path in pipeline.repository.iterdir()) == sorted(MODELS)
    chosen = report.step("gate").figures["chosen"]
    engine = pipeline.repository / "bert-embedding_engine" / "1"
    expected = {"onnxruntime-fp32": {"model.onnx"}, "openvino-fp32": {"model.xml", "model.bin"}}[chosen]
    assert {path.name for path in engine.iterdir()} == {"model.py", "served_backends"} | expected
    tokenizer = pipeline.repository / "bert-embedding_tokenizer" / "1"
    assert {path.name for path in tokenizer.iterdir()} == {"model.py", "served_backends", "tokenizer.json"}
    assert not list(pipeline.repository.rglob("__pycache__"))
    for model in MODELS:
        manifest = json.loads((pipeline.repository / model / "tritonforge.json").read_text())
        assert (manifest["recipe"], manifest["version"]) == ("bert-embedding", 1)
        assert manifest["key"] == report.step("publish").figures["key"]
        facts = manifest["build"]
        assert f"{facts['engine']}-{facts['precision']}" == chosen
        assert (engine / facts["model_file"]).is_file()
        assert Recipe.model_validate(facts["recipe"]) == Recipe.model_validate(pipeline.keys)


def test_labels_lie_where_triton_and_the_backend_look(
    tiny_build: Callable[..., Any], tiny_repository: Path
) -> None:
    tiny_build("bert", "classification")
    files = sorted(tiny_repository.glob("bert-classification*/**/labels.txt"))
    assert [str(path.relative_to(tiny_repository)) for path in files] == [
        "bert-classification/labels.txt",
        "bert-classification_engine/1/labels.txt",
        "bert-classification_engine/labels.txt",
    ]
    assert {path.read_text() for path in files} == {"calm\nglad\nsad\n"}


# -- the report


def test_the_report(pipeline: Pipeline) -> None:
    pipeline()
    report = pipeline.report
    assert (report["name"], report["status"], report["failure"]) == ("bert-embedding", "ok", None)
    steps = {step["step"]: step for step in report["steps"]}
    assert list(steps) == list(STEP_NAMES)
    assert all(step["repeat"].startswith("tritonforge build toy.yaml --rerun ") for step in steps.values())
    assert len(steps["resolve"]["figures"]["sha256"]["model.safetensors"]) == 64
    assert steps["export"]["figures"]["onnx_bytes"] > 0
    assert set(steps["check"]["figures"]) == {"onnxruntime-fp32", "openvino-fp32"}
    for name, speed in steps["measure"]["figures"].items():
        assert speed["sequences_per_second"] > 0, name
        assert speed["threads"] == 1
    assert {"torch", "transformers", "onnxruntime", "openvino", "tritonforge"} <= set(report["versions"])
    assert Recipe.model_validate(report["recipe"]).batching.max_batch_size == 64
    page = (pipeline.build_root / "bert-embedding" / "report.md").read_text()
    assert "# Build report: bert-embedding" in page and "**ok**" in page
    for name in STEP_NAMES:
        assert f"| {name} | " in page
    chosen = max(
        steps["measure"]["figures"],
        key=lambda name: steps["measure"]["figures"][name]["sequences_per_second"],
    )
    assert chosen in page


def test_a_failure_is_in_the_report_with_its_mend(pipeline: Pipeline) -> None:
    pipeline()
    before = tree(pipeline.repository)
    with pytest.raises(RecipeError) as caught:
        pipeline(max_length=65)
    assert tree(pipeline.repository) == before
    assert pipeline.report["status"] == "failed"
    assert pipeline.report["failure"] == caught.value.as_dict()
    assert pipeline.report["steps"] == []
    assert "**failed**: 65 tokens" in (pipeline.build_root / "bert-embedding" / "report.md").read_text()


def test_a_crash_of_ours_is_not_reported_as_a_success(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(publish_step, "assemble", crash)
    with pytest.raises(ZeroDivisionError):
        pipeline()
    assert pipeline.report["status"] == "failed"


def test_a_step_that_is_none() -> None:
    from build_engines.pipeline import check_step_name

    check_step_name("--until", None)
    check_step_name("--until", "check")
    with pytest.raises(UsageError, match="--until 'deploy' is no step") as caught:
        check_step_name("--until", "deploy")
    assert caught.value.mend and "publish" in caught.value.mend


# -- a build that dies half way


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ParityError("made up"), KeyboardInterrupt()],
)
def test_the_old_version_stays(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    pipeline()
    before = tree(pipeline.repository)
    whole = publish_step.assemble

    def half(recipe: Recipe, files: Any, spec: Any, compiled: Any, staging: Path, *rest: Any) -> None:
        whole(recipe, files, spec, compiled, staging, *rest)
        shutil.rmtree(staging / recipe.name)
        raise error

    monkeypatch.setattr(publish_step, "assemble", half)
    expected = BuildError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        pipeline(batching={"max_batch_size": 8})
    assert tree(pipeline.repository) == before
    assert not list(pipeline.repository.glob(".*"))
    monkeypatch.undo()
    assert pipeline(batching={"max_batch_size": 8}).step("publish").figures["version"] == 2


@pytest.fixture
def small_disk(tmpfs: Callable[[int], Path]) -> Path:
    """A tmpfs of 4 MiB."""
    return tmpfs(4)


def fill(disk: Path, spare: int) -> Path:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - spare))
    return ballast


@pytest.mark.parametrize("spare", [0, 20_000, 150_000])
def test_a_full_disk_under_the_repository(pipeline: Pipeline, small_disk: Path, spare: int) -> None:
    repository = small_disk / "repository"
    pipeline(into=repository)
    before = tree(repository)
    ballast = fill(small_disk, spare)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        pipeline(into=repository, batching={"max_batch_size": 8})
    assert caught.value.mend and "free disk space" in caught.value.mend
    assert tree(repository) == before
    assert not list(repository.glob(".*"))
    assert pipeline.report["status"] == "failed"
    ballast.unlink()
    assert pipeline(into=repository, batching={"max_batch_size": 8}).step("publish").figures["version"] == 2


def test_a_full_disk_under_the_artefacts(pipeline: Pipeline, small_disk: Path) -> None:
    shutil.copytree(pipeline.build_root / "bert-embedding", small_disk / "build" / "bert-embedding")
    fill(small_disk, 30_000)
    elsewhere = Pipeline(Recipe.model_validate(pipeline.keys), small_disk / "build", pipeline.repository)
    before = tree(small_disk / "build" / "bert-embedding" / "artifacts")
    with pytest.raises(BuildError, match="No space left on device"):
        elsewhere(rerun="compile")
    assert tree(small_disk / "build" / "bert-embedding" / "artifacts") == before
    assert not pipeline.repository.exists()
