"""The plots of the build report; each has a table beside it that says the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from build_engines.report.candidates import CandidateRow
from tritonforge.page.formats import cosine, number
from tritonforge.page.svg import BAD, INK, LINE, MUTED, SERIES, plot

_NINES = 7.0  # float32 against itself: nothing closer to 1 is told apart
_MARKERS = {"onnxruntime": "o", "openvino": "s", "tensorrt": "^"}
_MOST_LAYERS = 24
_LOSSY = {"int8": 0, "fp8": 2, "fp16": 3, "bf16": 3}


def marks(names: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Marker and colour of each candidate: shape says the engine, colour the precision.

    Args:
        names: Engine of each.
        precisions: Precision of each.
    """
    colors = {precision: SERIES[i % len(SERIES)] for i, precision in enumerate(dict.fromkeys(precisions))}
    return [(_MARKERS.get(name, "D"), colors[p]) for name, p in zip(names, precisions, strict=True)]


def nines(value: float) -> float:
    """How many nines a cosine begins with, as a number: 0.99 gives 2, 0.9975 gives 2.6."""
    return 0.0 if math.isnan(value) else min(_NINES, -math.log10(max(1 - value, 10**-_NINES)))


def accuracy_plot(rows: Sequence[CandidateRow]) -> Markup | None:
    """Accuracy against speed of all candidates; None where no two figures belong together."""
    placed = [
        (row, row.texts_per_second, row.mean_cosine)
        for row in rows
        if row.texts_per_second and row.mean_cosine is not None and math.isfinite(row.mean_cosine)
    ]
    if not placed:
        return None
    looks = marks([row.engine for row, *_ in placed], [row.precision for row, *_ in placed])

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        lows = []
        for (row, speed, found), (marker, color) in zip(placed, looks, strict=True):
            mean = nines(found)
            worst = mean if row.min_cosine is None else nines(row.min_cosine)
            lows.append(worst)
            axes.plot([speed, speed], [worst, mean], color=color, linewidth=2, zorder=2)
            axes.plot([speed], [worst], marker="_", markersize=10, color=color, zorder=2)
            axes.plot(
                [speed],
                [mean],
                marker=marker,
                markersize=10,
                linestyle="none",
                markeredgewidth=2,
                color=color,
                markerfacecolor="none" if row.outcome == "fail" else color,
                label=row.part + (" (refused)" if row.outcome == "fail" else ""),
                zorder=3,
            )
            if row.chosen:
                axes.plot([speed], [mean], marker="o", markersize=20, color=INK, markerfacecolor="none")
                axes.annotate("served", (speed, mean), (0, 14), textcoords="offset points", ha="center")
        for name, style in (("mean_cosine", "--"), ("min_cosine", ":")):
            limit = next((t for row, *_ in placed if (t := row.threshold(name)) is not None), None)
            if limit is not None and limit < 1:
                lows.append(nines(limit))
                said = f"{name.split('_')[0]} at least {cosine(limit)}"
                axes.axhline(nines(limit), color=BAD, linestyle=style, linewidth=1.5, label=said)
        low = max(0.0, math.floor(min(lows)))
        axes.set_ylim(low - 0.15, _NINES + 0.45)
        axes.set_xlim(0, max(speed for _, speed, _ in placed) * 1.12)
        ticks = range(int(low), int(_NINES) + 1)
        axes.set_yticks(ticks, [_nines_label(tick) for tick in ticks])
        axes.set_xlabel("texts per second" + ("" if narrow else " on the recipe's length mix"))
        axes.set_ylabel("cosine to the reference" + ("" if narrow else ", mean down to least"))
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{row.part}: {number(speed)} texts per second, mean cosine {cosine(mean)}, least "
        f"{cosine(row.min_cosine)}{', served' if row.chosen else ''}"
        for row, speed, mean in placed
    )
    return plot("accuracy", "Accuracy against speed", said, 440, draw, narrow_height=480)


def _nines_label(tick: int) -> str:
    """0, 0.9, 0.99 and so on."""
    return "0" if tick == 0 else "1" if tick >= _NINES else f"0.{'9' * tick}"


def layers_plot(name: str, layers: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Error that each layer adds when it alone is quantized, the worst first."""
    known = [layer for layer in layers if _finite(layer.get("error"))]
    worst = sorted(known, key=lambda layer: -layer["error"])[:_MOST_LAYERS]
    if not worst:
        return None
    precisions = list(dict.fromkeys(str(layer.get("precision")) for layer in layers))

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for precision in precisions:
            here = [i for i, layer in enumerate(worst) if str(layer.get("precision")) == precision]
            quantized = precision in _LOSSY
            axes.barh(
                here,
                [worst[i]["error"] for i in here],
                color=SERIES[_LOSSY[precision]] if quantized else "none",
                edgecolor=SERIES[_LOSSY[precision]] if quantized else SERIES[1],
                hatch=None if quantized else "////",
                linewidth=1.5,
                label=f"{precision}" if quantized else f"left in {precision}",
            )
        names = [str(layer.get("name", "")) for layer in worst]
        axes.set_yticks(range(len(worst)), [_short(n, 22 if narrow else 44) for n in names])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=0)
        axes.ticklabel_format(axis="x", style="plain")
        axes.locator_params(axis="x", nbins=3 if narrow else 6)
        axes.set_xlabel("error when quantized alone")
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    title = f"Error of each layer in {name}"
    said = "; ".join(
        f"{layer.get('name')}: {number(layer['error'])}, {layer.get('precision')}" for layer in worst
    )
    return plot(f"layers-{name}", title, said, 120 + 20 * len(worst), draw)


def _short(name: str, most: int) -> str:
    """The end of a long name, which tells it from its like."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def curve_plot(
    name: str,
    title: str,
    across: str,
    up: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    limits: Mapping[str, float],
    chosen: float | None = None,
) -> Markup | None:
    """One or more lines over a common axis, with thresholds; None where there is no line to draw.

    Args:
        name: Prefix of ids.
        title: Of the figure.
        across: Label of the x axis.
        up: Label of the y axis.
        lines: Points (x, y) by what they are.
        limits: Thresholds by what they are.
        chosen: The x that was taken.
    """
    drawn = {label: [p for p in line if _finite(p[0]) and _finite(p[1])] for label, line in lines.items()}
    drawn = {label: line for label, line in drawn.items() if len(line) > 1}  # one point is no curve
    if not drawn:
        return None

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for (label, line), color, marker in zip(drawn.items(), SERIES, "osD^vP", strict=False):
            axes.plot(
                *zip(*line, strict=True), color=color, marker=marker, markersize=5, linewidth=2, label=label
            )
        for (label, limit), style in zip(limits.items(), ("--", ":", "-."), strict=False):
            axes.axhline(limit, color=BAD, linestyle=style, linewidth=1.5, label=label)
        if chosen is not None:
            axes.axvline(chosen, color=MUTED, linewidth=1.5, label="taken")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.ticklabel_format(useOffset=False)
        axes.grid(color=LINE)
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{label}: " + ", ".join(f"{number(y)} at {number(x)}" for x, y in line)
        for label, line in drawn.items()
    )
    return plot(name, title, said, 340, draw, narrow_height=380)


def _finite(value: Any) -> bool:
    """Whether it is a number to draw."""
    return isinstance(value, int | float) and math.isfinite(value)
