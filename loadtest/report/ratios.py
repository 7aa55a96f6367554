"""The plot of a comparison: each figure's ratio with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from loadtest.report.compare import THROUGHPUT, Cell
from loadtest.report.sweep import level
from tritonforge.page.svg import INK, MUTED, SERIES, plot

_LOOKS = {"better": (SERIES[2], "^"), "worse": (SERIES[1], "v"), "unclear": (MUTED, "o")}
_WIDEST = 4.0  # an interval that goes beyond says nothing more


def ratio_plot(cells: Sequence[Cell]) -> Markup | None:
    """Ratios B / A with intervals, a row a figure; None where nothing was judged."""
    figures = list(dict.fromkeys(cell.name for cell in cells))
    shown = [cell for cell in cells if cell.low is not None and cell.high is not None]
    shown.sort(key=lambda cell: figures.index(cell.name))  # those that are read the same way together
    if not shown:
        return None
    names = [f"{cell.name}, {level(cell.at)}" for cell in shown]

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        axes.axvline(1.0, color=INK, linewidth=1.5)
        drawn = set()
        for at, cell in enumerate(shown):
            color, marker = _LOOKS[cell.verdict]
            low, high = max(cell.low or 0, 1 / _WIDEST), min(cell.high or 1, _WIDEST)
            axes.plot([low, high], [at, at], color=color, linewidth=2)
            label = {"better": "B is better", "worse": "B is worse"}.get(
                cell.verdict, "no difference can be told"
            )
            axes.plot(
                [cell.ratio],
                [at],
                marker=marker,
                markersize=8,
                color=color,
                linestyle="none",
                label=None if label in drawn else label,
            )
            drawn.add(label)
        axes.set_yticks(range(len(shown)), [_short(name) if narrow else name for name in names])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=4 if narrow else 8)
        axes.set_xlabel(
            "B / A" if narrow else "B / A: of throughput right is better, of times left is better"
        )
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{name}: {cell.ratio:.3f}, {cell.low:.3f} to {cell.high:.3f}, {cell.verdict}"
        for name, cell in zip(names, shown, strict=True)
    )
    return plot("ratios", "Ratio of B to A", said, 120 + 24 * len(shown), draw, 180 + 24 * len(shown))


def _short(name: str) -> str:
    for long, short in (("concurrency ", "c"), ("Poisson rate ", ""), ("rate ", ""), (THROUGHPUT, "rate")):
        name = name.replace(long, short)
    return name
