"""What quantization, pruning and TensorRT left in the figures, made ready for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from build_engines.report.data import BuildReport
from build_engines.report.plots import curve_plot, layers_plot
from tritonforge.page.formats import cosine

_FOR_MACHINES = {"node", "group"}  # long names of the graph; in report.json


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
        layers = _rows(found.get("layers"))
        curve = sorted(_rows(found.get("curve")), key=lambda point: point.get("share") or 0)
        share = found.get("share")
        plots = [
            layers_plot(precision, _bars(found)),
            curve_plot(
                f"curve-{precision}",
                f"Cosine against the share of the multiply-adds in {precision}",
                f"% of the linear layers' multiply-adds in {precision}",
                "cosine to float32",
                _lines(curve, "share", ("mean_cosine", "min_cosine"), 100),
                limits,
                100 * share if isinstance(share, int | float) else None,
            ),
        ]
        shown = {
            **found,
            "layers": [{k: v for k, v in row.items() if k not in _FOR_MACHINES} for row in layers],
        }
        shown.pop("int8_share", None)  # the same as `share`
        sections.append(_section(precision, shown, plots))
    return sections


def _bars(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Groups of layers with the error that each adds alone, and the precision that was chosen for it."""
    layers = _rows(found.get("layers"))
    chosen = {row.get("group"): row.get("precision") for row in layers}
    return [
        {
            "name": row.get("group"),
            "error": row.get("mean_error"),
            "precision": chosen.get(row.get("group"), "float"),
        }
        for row in _rows(found.get("sensitivity"))
    ]


def prune_section(report: BuildReport) -> Section | None:
    """What was pruned, None where nothing was."""
    found = report.figures("prune")
    if not found:
        return None
    least, asked = report.recipe.prune.min_accuracy, report.recipe.prune.sparsity
    plot = curve_plot(
        "prune",
        "Accuracy against sparsity",
        "% of the heads' and channels' parameters removed",
        "accuracy, as a share of the dense model's",
        _lines(_rows(found.get("curve")), "reached", ("accuracy",), 100),
        {f"at least {cosine(least)}": least},
        100 * asked if asked else None,
    )
    shown = {key: value for key, value in found.items() if key not in {"heads", "channels"}}
    return _section("pruning", {**shown, "left": _left(found)}, [plot])


def _left(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Heads and channels of each layer, after and before."""
    kinds = {kind: found.get(kind) or {} for kind in ("heads", "channels")}
    names = dict.fromkeys(name for layers in kinds.values() for name in layers)
    rows: list[Mapping[str, Any]] = []
    for name in names:
        row: dict[str, Any] = {"layer": name}
        for kind, layers in kinds.items():
            row[f"{kind} left"], row[f"{kind} before"] = layers.get(name) or (None, None)
        rows.append(row)
    return rows


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


def _lines(
    curve: Sequence[Mapping[str, Any]], across: str, keys: Sequence[str], scale: float = 1
) -> dict[str, list[tuple[float, float]]]:
    """Points of each key over one figure of the rows; rows without it are left out."""
    return {
        key.replace("_", " "): [
            (scale * row[across], row[key])
            for row in curve
            if _is_number(row.get(across)) and _is_number(row.get(key))
        ]
        for key in keys
    }


def _is_number(value: Any) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float)
