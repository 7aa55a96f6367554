"""A run over its time: windows of the load, and beside them what the server said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup
from scipy import stats

from loadtest.report.checks import samples_of
from loadtest.report.sweep import level
from loadtest.results import LoadRun, Sample
from tritonforge.page.formats import number
from tritonforge.page.svg import MUTED, SERIES, plot

_MOST_MARKS = 400  # of a line; a soak has thousands of samples
_MB = 1e6
_SLOPE_FROM = 300.0  # seconds; in less, an hour is too far to say
_WARM = 0.2  # of a run: caches fill, arenas grow

Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot of several that share an axis of time.

    Attributes:
        label: Of its y axis.
        lines: Points (seconds since the start, value) by label.
    """

    label: str
    lines: dict[str, Line]


_OF_SAMPLES: dict[str, dict[str, Callable[[Sample], float | None]]] = {
    "mean time, ms": {"queue": lambda s: s.queue_ms, "engine": lambda s: s.compute_ms},
    "requests": {"a batch": lambda s: s.batch, "waiting": lambda s: s.pending},
    "CPUs": {"server": lambda s: s.cpu, "client": lambda s: s.client_cpu},
    "memory, MB": {"server": lambda s: None if s.memory_bytes is None else s.memory_bytes / _MB},
}


def panels(run: LoadRun) -> list[Panel]:
    """What there is to draw, by panel; those with nothing are left out."""
    rates, middles, tails = [], [], []
    for point in run.points:
        at = point.started - run.started
        for window in point.windows:
            middle = at + window.seconds / 2
            rates.append((middle, window.requests / window.seconds))
            if window.p50 is not None:
                middles.append((middle, window.p50))
            if window.p99 is not None:
                tails.append((middle, window.p99))
            at += window.seconds
    found = [Panel("requests/s", {"answered": rates}), Panel("latency, ms", {"p50": middles, "p99": tails})]
    for label, parts in _OF_SAMPLES.items():
        lines = {
            name: [(s.at - run.started, v) for s in run.samples if (v := value(s)) is not None]
            for name, value in parts.items()
        }
        found.append(Panel(label, lines))
    kept = [Panel(panel.label, {n: thin(line) for n, line in panel.lines.items() if line}) for panel in found]
    return [panel for panel in kept if panel.lines]


def thin(line: Line) -> Line:
    """At most 400 points: means of neighbours."""
    if len(line) <= _MOST_MARKS:
        return line
    size = -(-len(line) // _MOST_MARKS)
    parts = [line[at : at + size] for at in range(0, len(line), size)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def time_plot(name: str, run: LoadRun) -> Markup | None:
    """All panels below each other; None where there are neither windows nor samples."""
    drawn = panels(run)
    if not drawn:
        return None

    def draw(figure: Any, narrow: bool) -> None:
        grid = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(grid, drawn, strict=True):
            for color, style, (label, line) in zip(SERIES, ("-", "--"), panel.lines.items(), strict=False):
                mark = "o" if len(line) < 60 else ""
                axes.plot(
                    *zip(*line, strict=True),
                    color=color,
                    linestyle=style,
                    marker=mark,
                    markersize=3,
                    linewidth=1.5,
                    label=label,
                )
            for point in run.points:
                begun = point.started - run.started
                axes.axvspan(begun, begun + point.seconds, color=MUTED, alpha=0.08, linewidth=0)
            axes.set_ylabel(panel.label)
            axes.set_ylim(bottom=0)
            if len(panel.lines) > 1:
                axes.legend(loc="upper left", ncols=2, fontsize=11)
                axes.set_ylim(top=axes.get_ylim()[1] * 1.25)  # room for it
        _name_levels(grid[0], run, narrow)
        grid[-1].set_xlabel("seconds since the start")

    said = "; ".join(
        f"{panel.label} {label}: from {number(min(y for _, y in line))} to {number(max(y for _, y in line))}"
        for panel in drawn
        for label, line in panel.lines.items()
    )
    return plot(name, "Load and server over time", said, 60 + 130 * len(drawn), draw)


def _name_levels(axes: Any, run: LoadRun, narrow: bool) -> None:
    """Above each stretch its level, where there is room."""
    if len(run.points) > (5 if narrow else 12):
        return
    for point in run.points:
        axes.annotate(
            number(point.level),
            (point.started - run.started + point.seconds / 2, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            color=MUTED,
        )


@dataclass(frozen=True)
class Growth:
    """How memory changed: the Theil-Sen slope, which single peaks do not bend [Sen 1968, JASA 63].

    Attributes:
        per_hour: Bytes an hour.
        low: Its 95% bounds.
        high: The upper one.
        seconds: Over how long, the warm-up left out.
    """

    per_hour: float
    low: float
    high: float
    seconds: float


def memory_growth(run: LoadRun) -> Growth | None:
    """Of the server, over the last four fifths of a run; None where that is less than five minutes."""
    line = [(s.at, float(s.memory_bytes)) for s in run.samples if s.memory_bytes is not None]
    kept = thin(line[int(_WARM * len(line)) :])
    if len(kept) < 10 or kept[-1][0] - kept[0][0] < _SLOPE_FROM:
        return None
    slope, _, low, high = stats.theilslopes([y for _, y in kept], [x for x, _ in kept])
    return Growth(3600 * float(slope), 3600 * float(low), 3600 * float(high), kept[-1][0] - kept[0][0])


def server_rows(run: LoadRun) -> list[dict[str, Any]]:
    """Means of the samples of each point, as rows of a table."""
    rows = []
    for point in run.points:
        samples = samples_of(run, point)
        row: dict[str, Any] = {"level": level(point)}
        for label, parts in _OF_SAMPLES.items():
            for name, value in parts.items():
                found = [v for s in samples if (v := value(s)) is not None]
                unit = label.rpartition(", ")[2]
                row[f"{name}, {unit}"] = fmean(found) if found else None
        rows.append(row)
    return [row for row in rows if any(value is not None for key, value in row.items() if key != "level")]
