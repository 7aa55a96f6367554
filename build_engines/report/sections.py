"""What quantization, pruning and TensorRT left in the figures, made ready for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from build_engines.report.data import BuildReport
from build_engines.report.formats import cosine
from build_engines.report.plots import curve_plot, layers_plot

_CURVE_ACROSS = ("left_out", "kept", "count", "layers", "sparsity")


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        name: For its heading and its ids.
        facts: Figures that fit a line.
        plots: What is drawn.
        tables: Rows by caption.
        rest: Figures that are neither.
    """

    name: str
    facts: Mapping[str, Any]
    plots: Sequence[Markup]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    rest: Mapping[str, Any]


def quantize_sections(report: BuildReport) -> list[Section]:
    """One section a precision."""
    gate = report.recipe.gate
    limits = {
        f"mean at least {cosine(gate.mean_cosine)}": gate.mean_cosine,
        f"least at least {cosine(gate.min_cosine)}": gate.min_cosine,
    }
    sections = []
    for precision, found in report.figures("quantize").items():
        curve = _rows(found.get("curve"))
        plots = [
            layers_plot(precision, _rows(found.get("layers"))),
            curve_plot(
                f"curve-{precision}",
                f"Cosine against layers left out of {precision}",
                "layers left in higher precision",
                "cosine to float32",
                _lines(curve, ("mean_cosine", "min_cosine")),
                limits,
            ),
        ]
        sections.append(_section(precision, found, plots))
    return sections


def prune_section(report: BuildReport) -> Section | None:
    """What was pruned, None where nothing was."""
    found = report.figures("prune")
    curve = _rows(found.get("curve"))
    if not found:
        return None
    accuracy = [key for key in ("accuracy", "mean_cosine", "min_cosine") if any(key in row for row in curve)]
    least = report.recipe.prune.min_accuracy
    plot = curve_plot(
        "prune",
        "Accuracy against sparsity",
        "share of the heads' and channels' parameters removed",
        "accuracy, of the dense model's",
        _lines(curve, accuracy),
        {f"at least {cosine(least)}": least},
        report.recipe.prune.sparsity or None,
    )
    return _section("pruning", found, [plot])


def tensorrt_notes(report: BuildReport) -> dict[str, Section]:
    """What TensorRT's lint and audit said, by candidate."""
    return {
        part: _section(part, facts, [])
        for part, facts in report.figures("compile").items()
        if part.startswith("tensorrt")
    }


def _section(name: str, found: Mapping[str, Any], plots: Sequence[Markup | None]) -> Section:
    """Sort figures by how they are shown."""
    tables = {key: _rows(value) for key, value in found.items() if _rows(value)}
    others = {key: value for key, value in found.items() if key not in tables}
    facts = {key: value for key, value in others.items() if not isinstance(value, Mapping | list | tuple)}
    rest = {key: value for key, value in others.items() if key not in facts and value}
    return Section(name, facts, [plot for plot in plots if plot], tables, rest)


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """A list of mappings, empty for anything else."""
    if isinstance(value, list | tuple) and value and all(isinstance(row, Mapping) for row in value):
        return list(value)
    return []


def _lines(curve: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Points of each key over the first axis that the rows name, else over their number."""
    across = next((key for key in _CURVE_ACROSS if curve and _is_number(curve[0].get(key))), None)
    return {
        key.replace("_", " "): [
            (float(row[across]) if across else float(i), float(row[key]))
            for i, row in enumerate(curve)
            if _is_number(row.get(key))
        ]
        for key in keys
    }


def _is_number(value: Any) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float)
