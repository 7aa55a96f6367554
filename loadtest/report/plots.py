"""The plots of a load test's report; each has a table beside it that says the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from loadtest.report.capacity import Capacity
from loadtest.report.knee import Knee
from loadtest.report.slo import Slo
from loadtest.report.sweep import Sweep, level, unsound
from loadtest.results import Latency, Point
from tritonforge.page.formats import number
from tritonforge.page.svg import BAD, INK, LINE, MUTED, SERIES, plot

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_CURVES = ("p50", "p95", "p99")
_MARKERS = "osD^vP"
_STYLES = {"p50": ":", "p95": "--", "p99": "-"}
_LOG_FROM = 20.0  # greatest over least
_MOST_LINES = 6


@dataclass(frozen=True)
class Read:
    """A sweep with what was read from it.

    Attributes:
        name: For people; empty where there is one only.
        sweep: The points.
        capacity: None where no objective was given.
        knee: None where it cannot be told.
    """

    name: str
    sweep: Sweep
    capacity: Capacity | None
    knee: Knee | None


def curve_plot(reads: Sequence[Read], slo: Slo | None) -> Markup | None:
    """Latency over throughput; None where nothing was answered."""
    lines = {read.name: _answered(read.sweep) for read in reads}
    several = len(reads) > 1  # each has a colour of its own; the styles of lines say which percentile
    if not any(lines.values()):
        return None

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for (color, marker), read in zip(_looks(len(reads)), reads, strict=True):
            for name, shade in zip(_CURVES, SERIES, strict=False):
                own = color if several else shade
                label = name if not several else read.name if name == "p99" else None
                _line(axes, lines[read.name], name, own, marker, _STYLES[name], label)
            _mark(axes, read, color if several else INK, named=not several)
        for objective in slo.objectives if slo else ():
            if objective.of == "latency":
                label = f"objective: {objective}"
                axes.axhline(objective.limit, color=BAD, linestyle="-.", linewidth=1.5, label=label)
        for at in [point for line in lines.values() for point, _ in line] if not several else ():
            if at.latency is not None:
                place = (at.requests_per_second, at.latency.p99)
                axes.annotate(
                    number(at.level), place, (0, 6), textcoords="offset points", ha="center", color=MUTED
                )
        axes.set_xlim(left=0)
        _scale(axes, [v for line in lines.values() for _, t in line for v in (t.p50, t.p99)])
        axes.set_xlabel("requests answered per second")
        axes.set_ylabel("latency, ms")
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{read.name} {level(point)}: {number(point.requests_per_second)} requests per second, p50 "
        f"{number(t.p50)}, p95 {number(t.p95)}, p99 {number(t.p99)} ms".strip()
        for read in reads
        for point, t in lines[read.name]
    )
    legend = 20 * len(reads)
    return plot("curve", "Latency against throughput", said, 440 + legend // 3, draw, 480 + legend)


def _looks(count: int) -> list[tuple[str, str]]:
    """Colour and marker of each of several sweeps; no two alike among 36."""
    return [
        (SERIES[at % len(SERIES)], _MARKERS[(at + at // len(SERIES)) % len(_MARKERS)]) for at in range(count)
    ]


def _answered(sweep: Sweep) -> list[tuple[Point, Latency]]:
    return [(point, point.latency) for point in sweep.points if point.latency is not None]


def _line(
    axes: Any,
    line: Sequence[tuple[Point, Latency]],
    name: str,
    color: str,
    marker: str,
    style: str,
    label: str | None,
) -> None:
    """One percentile over throughput; what is left out of capacity and knee is hollow, and off the line."""
    for sound in (True, False):
        shown = [(p.requests_per_second, getattr(t, name)) for p, t in line if (not unsound(p)) == sound]
        if shown:
            axes.plot(
                *zip(*shown, strict=True),
                color=color,
                marker=marker,
                markersize=6,
                linewidth=2,
                linestyle=style if sound else "none",
                markerfacecolor=color if sound else "none",
                label=label if sound or label is None else f"{label}, left out",
            )


def _mark(axes: Any, read: Read, color: str, named: bool) -> None:
    """Capacity with its interval, and the knee; in the legend if ``named``."""
    capacity, knee = read.capacity, read.knee
    if capacity and capacity.outcome in ("between", "at_least"):
        label = "capacity" if named else None
        axes.axvline(capacity.requests_per_second, color=color, linewidth=1.5, label=label)
        if capacity.interval:
            low, high = capacity.interval
            shown = max(p.requests_per_second for p in read.sweep.points) if math.isinf(high) else high
            axes.axvspan(low, max(low, shown), color=color, alpha=0.12, linewidth=0)
    if knee and knee.point.latency:
        axes.plot(
            [knee.point.requests_per_second],
            [knee.point.latency.p50],
            marker="o",
            markersize=16,
            linestyle="none",
            markeredgewidth=2,
            color=color,
            markerfacecolor="none",
            label="knee" if named else None,
        )


def _scale(axes: Any, values: Sequence[float], across: bool = False) -> None:
    """Linear from zero, or logarithmic where values differ by much."""
    positive = [value for value in values if value > 0]
    name = "x" if across else "y"
    if positive and max(positive) > _LOG_FROM * min(positive):
        from matplotlib.ticker import LogLocator

        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: number(value))
        axis.set_minor_formatter(lambda value, _: "")
    elif not across:
        axes.set_ylim(bottom=0)


def level_plot(name: str, reads: Sequence[Read]) -> Markup | None:
    """Throughput and p99 over the level, of sweeps of one kind; None where no sweep has two levels."""
    lines = {read.name: _answered(read.sweep) for read in reads}
    if not any(len(line) > 1 for line in lines.values()):
        return None
    percentiles = _CURVES if len(reads) == 1 else ("p99",)

    def draw(figure: Any, narrow: bool) -> None:
        panels = figure.subplots(*((2, 1) if narrow else (1, 2)))
        for (color, marker), (own, line) in zip(_looks(len(lines)), lines.items(), strict=True):
            levels = [point.level for point, _ in line]
            look: dict[str, Any] = {"marker": marker, "markersize": 6, "linewidth": 2}
            rates = [point.requests_per_second for point, _ in line]
            several = len(reads) > 1
            label = own if several else "throughput"
            panels[0].plot(levels, rates, color=color if several else SERIES[3], label=label, **look)
            for shade, percentile in zip(SERIES, percentiles, strict=False):
                values = [getattr(times, percentile) for _, times in line]
                hue, style = color if several else shade, _STYLES[percentile]
                named = None if several else percentile
                panels[1].plot(levels, values, color=hue, linestyle=style, label=named, **look)
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("requests per second")
        panels[1].set_ylabel("latency, ms" if len(reads) == 1 else "p99, ms")
        _scale(panels[1], [v for line in lines.values() for _, t in line for v in (t.p50, t.p99)])
        for axes in panels:
            _scale(axes, [point.level for line in lines.values() for point, _ in line], across=True)
            axes.set_xlabel(reads[0].sweep.unit)
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{own} {level(point)}: {number(point.requests_per_second)} requests per second, p99 "
        f"{number(times.p99)} ms".strip()
        for own, line in lines.items()
        for point, times in line
    )
    title = f"Throughput and latency against {reads[0].sweep.unit}"
    legend = 20 * len(reads)
    return plot(name, title, said, 340 + legend // 3, draw, 560 + legend)


def stream_plot(name: str, sweep: Sweep) -> Markup | None:
    """Time to the first token, and between tokens, over the level; None where answers do not stream."""
    parts = {
        "first token, ms": [(p.level, p.first_token) for p in sweep.points if p.first_token],
        "per token, ms": [(p.level, p.per_token) for p in sweep.points if p.per_token],
    }
    if not parts["first token, ms"]:
        return None

    def draw(figure: Any, narrow: bool) -> None:
        panels = figure.subplots(*((2, 1) if narrow else (1, 2)))
        for axes, (label, line) in zip(panels, parts.items(), strict=True):
            for color, percentile, marker in zip(SERIES, _CURVES, _MARKERS, strict=False):
                axes.plot(
                    [at for at, _ in line],
                    [getattr(times, percentile) for _, times in line],
                    color=color,
                    linestyle=_STYLES[percentile],
                    marker=marker,
                    label=percentile,
                )
            _scale(axes, [v for _, t in line for v in (t.p50, t.p99)])
            _scale(axes, [at for at, _ in line], across=True)
            axes.set_xlabel(sweep.unit)
            axes.set_ylabel(label)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)

    said = "; ".join(
        f"{label} at {number(at)}: p50 {number(times.p50)}, p99 {number(times.p99)}"
        for label, line in parts.items()
        for at, times in line
    )
    return plot(name, "Time to first token, and per token", said, 340, draw, 560)


def percentile_plot(name: str, sweep: Sweep) -> Markup | None:
    """Latency over the share of requests that are faster, a line a level; at most six of them."""
    answered = _answered(sweep)
    if not answered:
        return None
    step = (len(answered) - 1) / max(1, min(_MOST_LINES, len(answered)) - 1)
    shown = [answered[round(at * step)] for at in range(min(_MOST_LINES, len(answered)))]

    def draw(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for color, marker, (point, times) in zip(SERIES, _MARKERS, shown, strict=False):
            places = [-math.log10(1 - share) for share in PERCENTILES.values()]
            values = [getattr(times, percentile) for percentile in PERCENTILES]
            if times.max is not None and point.requests > 100:  # below, it lies at p99 or before
                places.append(math.log10(point.requests))
                values.append(times.max)
            axes.plot(places, values, color=color, marker=marker, linewidth=2, label=level(point))
        most = max([2.0, *(math.log10(p.requests) for p, t in shown if t.max is not None and p.requests)])
        ticks = {**PERCENTILES, "p99.9": 0.999, "p99.99": 0.9999}
        kept = {label: -math.log10(1 - share) for label, share in ticks.items()}
        kept = {label: place for label, place in kept.items() if place <= most + 0.05}
        axes.set_xticks(list(kept.values()), list(kept))
        axes.grid(color=LINE)
        _scale(axes, [v for _, t in shown for v in (t.p50, t.max or t.p99)])
        axes.set_xlabel("share of requests that are faster")
        axes.set_ylabel("latency, ms")
        figure.legend(loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{level(point)}: " + ", ".join(f"{key} {number(getattr(times, key))} ms" for key in PERCENTILES)
        for point, times in shown
    )
    return plot(name, "Percentiles of latency", said, 340, draw, 420)
