"""What quantizer and pruner tell becomes plots and tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from build_engines.compress.int8.report import CurvePoint, LayerRow, QuantizationReport
from build_engines.context import StepReport
from build_engines.prune.run import CurvePoint as PrunePoint
from build_engines.prune.run import PruneReport
from build_engines.report import BuildReport
from build_engines.report.html import report_page
from build_engines.report.markdown import markdown_lines
from build_engines.report.plots import nines
from tritonforge.recipe import Recipe

EVIL = "encoder.<b>layer</b>.$0$"


def layer(name: str, precision: str, alone: float | None) -> LayerRow:
    return LayerRow(
        name, "ffn_out", "node", name, 0.25, precision, "the worst", 0.6, False, "mul", "mse", 0.01, alone
    )


QUANTIZED = QuantizationReport(
    number="int8",
    share=0.75,
    mean_cosine=0.9971,
    min_cosine=0.981,
    layers=(layer(EVIL, "float", 0.004), layer("b", "int8", 0.001), layer("c", "int8", None)),
    sensitivity=((EVIL, 0.004, 0.02), ("b", 0.001, 0.003), ("c", float("nan"), 0.0)),
    curve=(CurvePoint((), 1.0, 0.99, 0.95), CurvePoint((EVIL,), 0.75, 0.9971, 0.981)),
    attention=0,
    notes=("one layer was left",),
    seconds={"observe": 1.5},
)
PRUNED = PruneReport(
    curve=[PrunePoint(0.0, 0.0, 1000, 1.0), PrunePoint(0.3, 0.28, 800, 0.991)],
    accuracy=0.993,
    accuracy_before_distillation=0.991,
    distill_steps=10,
    losses=[0.2, 0.1],
    heads={"layer.0": (3, 4)},
    channels={"layer.0": (48, 64)},
    parameters=800,
    dense_parameters=1000,
    flops_left=0.7,
    tokens=20.0,
    seconds={"all": 2.0},
)


def report(**figures: Any) -> BuildReport:
    steps = [StepReport(name, "done", 1.0, found, (), "again") for name, found in figures.items()]
    recipe = Recipe.model_validate({"name": "toy", "model": "x", "prune": {"sparsity": 0.3}})
    machine: dict[str, str | int] = {"cpu": "a processor", "cores": 2}
    return BuildReport("toy", recipe, datetime.now(UTC), steps, None, machine, {})


def test_quantization(read: Callable[[str], Any]) -> None:
    told = report(quantize={"int8": QUANTIZED.as_dict()})
    page = read(report_page(told))
    assert page.tags["svg"] == 4, "sensitivity and curve, each wide and narrow"
    assert [EVIL, "0.004", "0.02"] in page.rows
    layers = next(row for row in page.rows if row and row[0] == EVIL and "float" in row)
    assert [cell.strip() for cell in layers[2:5]] == ["25.0%", "float", "the worst"]
    assert "int8: number int8, share 0.75" in "\n".join(markdown_lines(told))


def test_pruning(read: Callable[[str], Any]) -> None:
    page = read(report_page(report(prune=PRUNED.as_dict())))
    assert page.tags["svg"] == 2
    assert page.row("layer.0") == ["layer.0", "3", "4", "48", "64"]
    assert page.row("0.3")[1:] == ["0.28", "800", "0.9910"]


def test_tensorrt_findings_of_any_shape(read: Callable[[str], Any]) -> None:
    facts = {
        "bytes": 10,
        "tensorrt": "11.0",
        "lint": [{"rule": "zero_point", "node": "<q>"}],
        "audit": {"gemms": 4, "layers": [{"name": "fc", "precision": "int8"}]},
    }
    page = read(report_page(report(compile={"tensorrt-int8": facts})))
    assert page.row("zero_point") == ["zero_point", "<q>"]
    assert page.row("fc") == ["fc", "int8"]


def test_both_precisions_on_one_page_keep_their_ids_apart(read: Callable[[str], Any]) -> None:
    figures = QUANTIZED.as_dict()
    assert read(report_page(report(quantize={"int8": figures, "fp8": figures}))).tags["svg"] == 8


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0.0), (0.9, 1.0), (0.999, 3.0), (1.0, 7.0), (1.1, 7.0)]
)
def test_nines(value: float, expected: float) -> None:
    assert nines(value) == pytest.approx(expected)
