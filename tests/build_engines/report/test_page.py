"""``report.html`` of real builds: whole, stopped early, refused by the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gensim.test.utils import datapath

from build_engines.context import StepReport
from build_engines.report import BuildReport, write_report
from build_engines.report.html import report_page
from tritonforge.errors import BuildError, GateError
from tritonforge.recipe import Recipe

HOSTILE = "<script>alert(1)</script> &"


@pytest.fixture(scope="module")
def built(tiny_build: Callable[..., Any]) -> Any:
    return tiny_build("bert", "embedding")


def test_a_whole_build(built: Any, read: Callable[[str], Any]) -> None:
    page = read(report_page(built.report))
    text = " ".join(page.text)
    speeds, chosen = built.report.figures("measure"), built.report.gate["chosen"]
    assert set(speeds) == {"onnxruntime-fp32", "openvino-fp32"}
    for part, speed in speeds.items():
        row = page.row(part.replace("-", " "))
        assert f"{speed['sequences_per_second']:,.0f}" in [cell.replace(".", ",") for cell in row] or (
            f"{speed['sequences_per_second']:.4g}" in row
        )
        assert ("chosen" in row[0]) == (part == chosen)
    assert f"{chosen.replace('-', ' ')} is served, version " in text
    assert page.tags["svg"] == 2, "the scatter, for wide and for narrow pages"
    assert {step.step for step in built.report.steps} <= {row[0].strip() for row in page.rows}
    assert {step.repeat for step in built.report.steps} <= {cell for row in page.rows for cell in row}
    assert built.report.figures("resolve")["sha256"]["model.safetensors"] in text


def test_the_plot_says_what_it_shows(built: Any) -> None:
    source = report_page(built.report)
    assert 'role="img"' in source
    for part in built.report.figures("measure"):
        assert f"{part}: " in source[source.index("<desc") : source.index("</desc>")]
    assert "#0" not in source[source.index("<svg") :].split("</svg>")[0], "a color that no scheme changes"


def test_it_is_beside_the_other_forms(built: Any) -> None:
    folder = built.context.build_dir
    for name in ("report.html", "report.md", "report.json"):
        assert (folder / name).stat().st_size > 0
    assert not list(folder.glob(".report*"))


@pytest.mark.parametrize("count", range(12))
def test_a_build_that_stopped_after_any_step(built: Any, read: Callable[[str], Any], count: int) -> None:
    for failure in (None, BuildError("the disk <is> full", where="a & b", mend="make room")):
        report = replace(built.report, steps=built.report.steps[:count], failure=failure)
        text = " ".join(read(report_page(report)).text)
        if failure:
            assert "the disk <is> full" in text and "a & b" in text and "make room" in text


@pytest.fixture(scope="module")
def refused(
    tiny_model: Callable[..., Path],
    build_recipe: Callable[..., Any],
    build_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[GateError, Path]:
    """A build with hostile text whose thresholds no engine in 8 bits can reach."""
    folder = tmp_path_factory.mktemp("hostile")
    known = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()[:40]
    lines = [f"{HOSTILE} {' '.join(line.split()[:40])}" for line in known]
    (folder / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(GateError) as caught:
        build_recipe(
            into=folder / "repository",
            name="hostile",
            model=str(tiny_model("bert")),
            engine="onnxruntime",
            precision="int8-dynamic",
            threads={"engine": 1},
            length_mix=[{"tokens": 8}],
            calibration={"texts": str(folder / "texts.txt"), "samples": 20},
            gate={"mean_cosine": 1.0, "min_cosine": 1.0, "samples": 10},
        )
    return caught.value, build_root / "hostile"


def test_a_refusal_shows_figure_threshold_examples_and_mend(
    refused: tuple[GateError, Path], read: Callable[[str], Any]
) -> None:
    error, folder = refused
    page = read((folder / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.text)
    assert error.what in text
    verdicts = json.loads((folder / "report.json").read_text())["steps"][-1]["figures"]["verdicts"]
    checks = {check["name"]: check for check in verdicts["onnxruntime-int8-dynamic"]["checks"]}
    missed = checks["accuracy.mean_cosine"]
    assert missed["outcome"] == "fail"
    shown = [row for row in page.rows if row[0] == "accuracy.mean_cosine" and missed["mend"] in row[-1]]
    assert len(shown) == 1
    _, outcome, found, threshold, _ = shown[0]
    assert "fail" in outcome and threshold == "1"
    assert float(found) == pytest.approx(missed["figure"], abs=1e-4)
    assert "onnxruntime-int8-dynamic: accuracy.mean_cosine" in text


def test_text_of_users_is_text(refused: tuple[GateError, Path], read: Callable[[str], Any]) -> None:
    source = (refused[1] / "report.html").read_text(encoding="utf-8")
    page = read(source)  # which knows no script and no link that leads away
    examples = [cell for row in page.rows for cell in row if HOSTILE in cell]
    assert examples, "the worst examples are not on the page"
    assert "<script>" in examples[0]
    assert "<script" not in source


def test_a_forced_build_says_so_loudly(refused: tuple[GateError, Path], read: Callable[[str], Any]) -> None:
    figures = json.loads((refused[1] / "report.json").read_text())["steps"][-1]["figures"]
    figures["chosen"] = "onnxruntime-int8-dynamic"
    steps = [StepReport("gate", "done", 1.0, figures, (), "again")]
    report = BuildReport("toy", Recipe(name="toy", model="x"), datetime.now(UTC), steps, None, MACHINE, {})
    text = " ".join(read(report_page(report)).text)
    assert "The gate refuses it: it was forced." in text


MACHINE: dict[str, str | int] = {"cpu": "a processor", "cores": 2}


def test_a_pruned_and_calibrated_build(
    tiny_model: Callable[..., Path],
    build_recipe: Callable[..., Any],
    tmp_path: Path,
    read: Callable[[str], Any],
) -> None:
    built = build_recipe(
        into=tmp_path,
        name="calibrated",
        model=str(tiny_model("bert")),
        engine="onnxruntime",
        precision="int8",
        threads={"engine": 1},
        length_mix=[{"tokens": 16}],
        calibration={"texts": datapath("lee_background.cor"), "samples": 60},
        prune={"sparsity": 0.3, "min_accuracy": 0.0},
        gate={"mean_cosine": 0.0, "min_cosine": 0.0, "overlap": 0.0, "min_speedup": 0.0, "samples": 30},
    )
    page = read((built.context.build_dir / "report.html").read_text(encoding="utf-8"))
    quantized, pruned = built.report.figures("quantize")["int8"], built.report.figures("prune")
    first = [row[0] for row in page.rows if row]
    for layer in quantized["layers"]:
        assert layer["name"] in first
    for layer in pruned["heads"]:
        assert str(layer) in first
    assert page.tags["svg"] == 6, "scatter, sensitivity and pruning; a curve of one point is not drawn"
    assert "onnxruntime int8" in " ".join(page.text)


def test_a_full_disk_is_said_unless_the_build_failed_already(built: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot write"):
        write_report(built.report, tmp_path / "file" / "folder")
    write_report(replace(built.report, failure=BuildError("first")), tmp_path / "file" / "folder")
