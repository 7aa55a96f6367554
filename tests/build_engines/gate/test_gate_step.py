"""The gate in a build of a tiny model: what is chosen, refused, forced, and told."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gensim.test.utils import datapath
from safetensors.torch import load_file, save_file

from build_engines.context import BuildContext
from build_engines.pipeline import build, make_context
from build_engines.report import BuildReport
from tritonforge.errors import GateError, RecipeError
from tritonforge.recipe import Recipe

NAME = "gate-toy"


class Gated:
    """Builds one tiny model again and again, with other thresholds."""

    def __init__(self, model: Path, root: Path, texts: Path) -> None:
        self.root = root
        self.context: BuildContext | None = None
        self.keys: dict[str, Any] = {
            "name": NAME,
            "model": str(model),
            "engine": "onnxruntime",
            "precision": "int8-dynamic",
            "threads": {"engine": 1},
            "length_mix": [{"tokens": 8}, {"tokens": 32}],
            "calibration": {"texts": str(texts), "samples": 60},
            # Speed of so small a model is chance; without VNNI, sums of ONNX Runtime's INT8 saturate.
            "gate": {"samples": 60, "min_speedup": 0, "mean_cosine": 0.95, "min_cosine": 0.85},
        }

    def __call__(
        self, repository: Path, *, force: bool = False, gate: dict[str, Any] | None = None, **keys: Any
    ) -> BuildReport:
        merged = {**self.keys, **keys, "gate": {**self.keys["gate"], **(gate or {})}}
        recipe = Recipe.model_validate(merged)
        self.context = make_context(recipe, Path("toy.yaml"), repository, self.root / "build", force=force)
        return build(self.context)

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "build" / NAME / "report.json").read_text())
        return found

    def figures(self) -> dict[str, Any]:
        """Figures of the gate, which are in the report whether it passed or not."""
        step = next(step for step in self.report["steps"] if step["step"] == "gate")
        found: dict[str, Any] = step["figures"]
        return found


@pytest.fixture(scope="module")
def gated(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Gated:
    root = tmp_path_factory.mktemp("gated")
    lines = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()
    (root / "texts.txt").write_text("\n".join(lines[:120]), encoding="utf-8")
    return Gated(tiny_model("bert"), root, root / "texts.txt")


def failed(figures: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in figures["verdicts"][part]["checks"] if c["outcome"] == "fail"}


def test_a_sound_engine_is_published(gated: Gated, tmp_path: Path) -> None:
    report = gated(tmp_path / "repository", gate={"overlap": 0.5})
    figures = gated.figures()
    assert figures["chosen"] == "onnxruntime-int8-dynamic"
    assert set(figures["verdicts"]) == {"model", "onnxruntime-fp32", "onnxruntime-int8-dynamic"}
    assert all(verdict["passed"] for verdict in figures["verdicts"].values())
    names = [c["name"] for c in figures["verdicts"]["onnxruntime-int8-dynamic"]["checks"]]
    assert names == [
        "outputs",
        "determinism",
        "batch_invariance",
        "accuracy.mean_cosine",
        "accuracy.min_cosine",
        "accuracy.overlap",
        "speed",
    ]
    gate = report.step("gate")
    assert gate is not None and gate.notes == ("onnxruntime-int8-dynamic is served",)
    assert (tmp_path / "repository" / NAME).is_dir()


def test_the_second_build_reuses_what_was_measured(gated: Gated, tmp_path: Path) -> None:
    gated(tmp_path / "repository", gate={"overlap": 0.5})
    again = gated(tmp_path / "repository", gate={"overlap": 0.4}).step("gate")
    assert again is not None and again.status == "reused"


@pytest.mark.parametrize(
    ("gate", "check"),
    [({"mean_cosine": 1.0}, "accuracy.mean_cosine"), ({"min_speedup": 1000}, "speed")],
)
def test_a_worse_or_slower_engine_is_refused(
    gated: Gated, tmp_path: Path, gate: dict[str, Any], check: str
) -> None:
    with pytest.raises(GateError) as caught:
        gated(tmp_path / "repository", gate={"overlap": 0, **gate})
    error = caught.value
    assert error.exit_code == 1
    found = failed(gated.figures(), "onnxruntime-int8-dynamic")[check]
    assert f"onnxruntime-int8-dynamic: {check} is {found['figure']:.4f}" in error.what
    assert "the threshold is" in error.what
    if found["worst"]:
        assert f"cosine {found['worst'][0]['cosine']:.4f}" in error.what
    assert error.mend and found["mend"] in error.mend and "--force" in error.mend
    assert gated.report["status"] == "failed"
    assert gated.figures()["chosen"] is None
    assert not (tmp_path / "repository").exists()


def test_force_publishes_and_says_so_loudly(gated: Gated, tmp_path: Path) -> None:
    report = gated(tmp_path / "repository", force=True, gate={"mean_cosine": 1.0})
    gate = report.step("gate")
    assert gate is not None and any(note.startswith("FORCED: ") for note in gate.notes)
    assert any("accuracy.mean_cosine is 0." in note for note in gate.notes)
    assert gated.figures()["chosen"] == "onnxruntime-int8-dynamic"
    manifest = json.loads((tmp_path / "repository" / NAME / "tritonforge.json").read_text())
    assert manifest["build"]["forced"] is True


def test_force_of_what_passes_is_no_news(gated: Gated, tmp_path: Path) -> None:
    report = gated(tmp_path / "repository", force=True, gate={"overlap": 0.5})
    gate = report.step("gate")
    assert gate is not None and not any("FORCED" in note for note in gate.notes)
    assert gated.context is not None and not gated.context.forced


def test_auto_takes_another_precision_and_says_why(gated: Gated, tmp_path: Path) -> None:
    """Only float32 reaches a mean cosine of 0.999999, and it needs no force."""
    report = gated(
        tmp_path / "repository",
        precision="auto",
        calibration={},
        gate={"mean_cosine": 0.999999, "min_cosine": 0},
    )
    gate = report.step("gate")
    assert gate is not None and gated.figures()["chosen"] == "onnxruntime-fp32"
    assert any(note.startswith("not served: onnxruntime-int8-dynamic: accuracy.") for note in gate.notes)


def test_float32_passes_every_accuracy_check(gated: Gated, tmp_path: Path) -> None:
    gated(tmp_path / "repository", precision="fp32", gate={"mean_cosine": 0.9999999, "overlap": 1.0})
    assert gated.figures()["verdicts"]["onnxruntime-fp32"]["passed"]


def test_without_text_the_detail_says_so(gated: Gated, tmp_path: Path) -> None:
    gated(tmp_path / "repository", calibration={}, gate={"mean_cosine": 0.9, "min_cosine": 0.9})
    checks = gated.figures()["verdicts"]["onnxruntime-int8-dynamic"]["checks"]
    detail = {check["name"]: check["detail"] for check in checks}
    assert "random tokens, since the recipe names no text" in detail["accuracy.mean_cosine"]
    assert "random tokens" in detail["outputs"]


def test_labelled_pairs(gated: Gated, tmp_path: Path) -> None:
    lines = (gated.root / "texts.txt").read_text(encoding="utf-8").splitlines()
    data = tmp_path / "pairs.jsonl"
    pairs = (
        {"text": a, "text_pair": b, "score": len(a)} for a, b in zip(lines[:30], lines[30:60], strict=True)
    )
    data.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    gated(tmp_path / "repository", gate={"labelled": str(data), "overlap": 0, "metric_drop": 0.5})
    verdicts = gated.figures()["verdicts"]
    named = {c["name"]: c for c in verdicts["onnxruntime-int8-dynamic"]["checks"]}
    dense = {c["name"]: c for c in verdicts["onnxruntime-fp32"]["checks"]}
    for name in ("metric.spearman", "metric.pearson"):
        assert named[name]["outcome"] == dense[name]["outcome"] == "pass"
        assert dense[name]["threshold"] == pytest.approx(dense[name]["figure"] - 0.5, abs=1e-5)


# -- a broken model ends early


def test_labelled_data_that_cannot_be_read_ends_the_build_before_export(gated: Gated, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a"}')
    with pytest.raises(RecipeError, match="label"):
        gated(tmp_path / "repository", name="gate-data", gate={"labelled": str(tmp_path / "data.jsonl")})
    assert not list((gated.root / "build" / "gate-data").glob("artifacts/export-*"))


@pytest.fixture
def broken(gated: Gated, tmp_path: Path) -> Iterator[Path]:
    """A copy of the model with a NaN in it."""
    folder = shutil.copytree(gated.keys["model"], tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.attention.self.query.weight"][3, 4] = math.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert torch.isnan(weights["encoder.layer.0.attention.self.query.weight"]).sum() == 1
    yield folder


def test_a_planted_nan_ends_the_build_before_export(gated: Gated, tmp_path: Path, broken: Path) -> None:
    with pytest.raises(GateError, match=r"weights\.finite is 1, the threshold is 0") as caught:
        gated(tmp_path / "repository", model=str(broken), name="gate-broken")
    assert "encoder.layer.0.attention.self.query.weight" in caught.value.what
    report = json.loads((gated.root / "build" / "gate-broken" / "report.json").read_text())
    assert "export" not in [step["step"] for step in report["steps"]]
    assert report["steps"][-1]["figures"]["verdicts"]["model"]["passed"] is False
    assert not list((gated.root / "build" / "gate-broken").glob("artifacts/export-*"))


def test_text_in_another_language_is_nothing_to_judge_by(gated: Gated, tmp_path: Path) -> None:
    path = tmp_path / "amharic.txt"
    words = ["ሰላም", "ለሁሉም", "ሰው", "ዛሬ", "ነገ", "ውሃ", "ቤት", "መንገድ"]
    path.write_text("\n".join(" ".join(words[i:] + words[:i]) + f" {i}" for i in range(8)), encoding="utf-8")
    with pytest.raises(GateError, match=r"text\.unknown") as caught:
        gated(tmp_path / "repository", name="gate-foreign", calibration={"texts": str(path)})
    assert caught.value.mend and "language" in caught.value.mend
