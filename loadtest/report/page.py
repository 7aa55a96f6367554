"""The report as one HTML page that stands alone, and its short form in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from loadtest.report.capacity import slo_capacity
from loadtest.report.checks import concurrency_by_little, warnings
from loadtest.report.compare import THROUGHPUT, Comparison
from loadtest.report.knee import find_knee, power
from loadtest.report.plots import PERCENTILES, Read, curve_plot, level_plot, percentile_plot, stream_plot
from loadtest.report.slo import Slo, errors
from loadtest.report.sweep import level, sweeps, unsound
from loadtest.report.timeline import memory_growth, server_rows, time_plot
from loadtest.report.words import (
    capacity_sentence,
    cell_words,
    comparison_sentence,
    growth_sentence,
    interval_words,
    items,
    knee_sentence,
    where_sentence,
)
from loadtest.results import LoadRun, Point
from tritonforge.page.environment import environment
from tritonforge.page.formats import number

_PACKAGE = "loadtest.report"
_LONGEST_NAME = 24  # of a run, in headings and legends
Row = Mapping[str, Any]


def read_sweeps(runs: Sequence[LoadRun], slo: Slo | None) -> list[Read]:
    """Every sweep of every run, with capacity and knee."""
    found = [(name, sweep) for name, run in zip(run_names(runs), runs, strict=True) for sweep in sweeps(run)]
    kinds = len({sweep.kind for _, sweep in found}) > 1
    return [
        Read(
            ", ".join(filter(None, (name, sweep.unit if kinds else ""))),
            sweep,
            slo_capacity(sweep.points, slo) if slo else None,
            find_knee(sweep.points),
        )
        for name, sweep in found
    ]


def run_names(runs: Sequence[LoadRun]) -> list[str]:
    """Short names, no two alike; empty for a single run, which needs none."""
    if len(runs) == 1:
        return [""]
    names = [run.name if len(run.name) <= _LONGEST_NAME else f"{run.name[:_LONGEST_NAME]}…" for run in runs]
    return [f"{name} {at}" if names.count(name) > 1 else name for at, name in enumerate(names, 1)]


def load_page(runs: Sequence[LoadRun], slo: Slo | None = None) -> str:
    """Render the report of one load test or several.

    Args:
        runs: At least one.
        slo: What must hold; without it the page tells no capacity.

    Returns:
        The page: styles and plots inside, nothing fetched from anywhere.
    """
    reads = read_sweeps(runs, slo)
    names, told = run_names(runs), [_facts(run) for run in runs]
    named = list(zip(names, runs, strict=True))
    shared = {key: told[0][key] for key in told[0] if all(key in f and f[key] == told[0][key] for f in told)}
    return (
        environment(_PACKAGE)
        .get_template("load.html.j2")
        .render(
            title=" and ".join(dict.fromkeys(run.setting.model for run in runs)),
            slo=slo,
            headlines=[(read.name, capacity_sentence(read)) for read in reads],
            places=list(dict.fromkeys(where_sentence(run) for run in runs)),
            tone=_tone(reads),
            tiles=_tiles(reads),
            shared=shared,
            differing=[
                {"run": name} | _without(facts, shared) for name, facts in zip(names, told, strict=True)
            ],
            commands=[(name, run.setting.command) for name, run in named],
            curve=curve_plot(reads, slo),
            reads=[_read(read, number_) for number_, read in enumerate(reads)],
            levels=[plot for plot in _level_plots(reads) if plot],
            runs=[_server(run, name, at) for at, (name, run) in enumerate(named)],
            warnings=[(name, warning) for name, run in named for warning in warnings(run)],
            closed=any(read.sweep.kind in ("concurrency", "users") for read in reads),
        )
    )


def _tone(reads: Sequence[Read]) -> str:
    outcomes = {read.capacity.outcome for read in reads if read.capacity}
    return "bad" if "none" in outcomes else "warn" if "unknown" in outcomes else "good"


def _tiles(reads: Sequence[Read]) -> list[tuple[str, str, str]]:
    """Label, figure and small print; of a single sweep only, for several do not fit."""
    if len(reads) != 1 or not reads[0].sweep.sound:
        return []
    read, tiles = reads[0], []
    if read.capacity and read.capacity.outcome in ("between", "at_least"):
        least = "at least " if read.capacity.outcome == "at_least" else ""
        figure = f"{least}{number(round(read.capacity.requests_per_second, 1))} /s"
        tiles.append(("capacity", figure, f"requests, {read.capacity.slo}"))
    best = max(read.sweep.sound, key=lambda point: point.requests_per_second)
    tiles.append(("most", f"{number(round(best.requests_per_second, 1))} /s", f"requests, at {level(best)}"))
    if read.knee:
        rate = number(round(read.knee.point.requests_per_second, 1))
        tiles.append(("knee", f"{rate} /s", f"requests, at {level(read.knee.point)}"))
    first = read.sweep.sound[0]
    if first.latency:
        small = f"p99 {number(first.latency.p99)} ms, at {level(first)}"
        tiles.append(("least loaded", f"{number(first.latency.p50)} ms", small))
    return tiles


def _facts(run: LoadRun) -> dict[str, Any]:
    """Settings, thread budgets first."""
    setting = run.setting
    return {
        "engine threads": "all cores" if setting.engine_threads == 0 else setting.engine_threads,
        "cores of client and server": setting.machine.cores,
        "model": f"{setting.model} ({setting.task})",
        "engine": setting.engine,
        "server": setting.server,
        "processor": setting.machine.cpu,
        "memory, GB": round(setting.machine.memory_bytes / 1e9, 1),
        "GPU": ", ".join(setting.machine.gpu) or "none",
        "tool": f"{setting.tool} {setting.tool_version}",
        "asked": f"{setting.target} at {setting.url}",
        f"{items(setting)} a request": setting.items_per_request,
        "lengths in tokens": setting.length_mix,
        "texts": setting.corpus,
        "shared memory": setting.shared_memory,
    }


def _without(facts: Row, shared: Row) -> dict[str, Any]:
    """What a run does not have in common with all others."""
    return {key: value for key, value in facts.items() if key not in shared}


def _read(read: Read, at: int) -> dict[str, Any]:
    """One sweep for the template."""
    streams = any(point.first_token for point in read.sweep.points)
    return {
        "name": read.name,
        "knee": knee_sentence(read),
        "notes": list(read.capacity.notes) if read.capacity and read.capacity.outcome != "unknown" else [],
        "curve_rows": [curve_row(point, read) for point in read.sweep.points],
        "level_rows": [_level_row(point, read) for point in read.sweep.points],
        "percentiles": percentile_plot(f"percentiles-{at}", read.sweep),
        "percentile_rows": [_percentile_row(point) for point in read.sweep.points if point.latency],
        "stream": stream_plot(f"stream-{at}", read.sweep) if streams else None,
        "stream_rows": [_stream_row(point) for point in read.sweep.points] if streams else [],
    }


def curve_row(point: Point, read: Read) -> Row:
    """A level with throughput and latency, and what is to be said of it."""
    times, said = point.latency, []
    if why := unsound(point):
        said.append(f"left out: {why}")
    elif read.capacity:
        missed = read.capacity.slo.missed(point)
        said.append(f"misses: {', '.join(missed)}" if missed else "meets the objective")
    if read.knee and point is read.knee.point:
        said.append("knee")
    return {
        "level": level(point),
        "requests/s": _tenth(point.requests_per_second),
        "p50, ms": times and times.p50,
        "p95, ms": times and times.p95,
        "p99, ms": times and times.p99,
        "": "; ".join(said),
    }


def _tenth(value: float) -> str:
    return number(round(value, 1))


def _level_row(point: Point, read: Read) -> Row:
    little = concurrency_by_little(point)
    return {
        "level": level(point),
        f"{items(read.sweep.run.setting)}/s": _tenth(point.items_per_second),
        "requests": point.requests,
        "failed": f"{errors(point):.2%}",
        "seconds": point.seconds,
        "mean, ms": point.latency and point.latency.mean,
        "in flight by Little's law": little,
        "power, requests/s²": power(point) or None,
    }


def _percentile_row(point: Point) -> Row:
    times = point.latency
    assert times is not None
    named = {f"{name}, ms": getattr(times, name) for name in PERCENTILES}
    return {"level": level(point), **named, "slowest, ms": times.max}


def _stream_row(point: Point) -> Row:
    row: dict[str, Any] = {"level": level(point)}
    for label, times in (("first token", point.first_token), ("per token", point.per_token)):
        for name in ("p50", "p95", "p99"):
            row[f"{label} {name}, ms"] = getattr(times, name) if times else None
    return row


def _level_plots(reads: Sequence[Read]) -> Iterator[Markup | None]:
    """One figure for each kind of load."""
    for at, kind in enumerate(dict.fromkeys(read.sweep.kind for read in reads)):
        yield level_plot(f"levels-{at}", [read for read in reads if read.sweep.kind == kind])


def _server(run: LoadRun, name: str, at: int) -> dict[str, Any]:
    """One run over its time, for the template."""
    growth = memory_growth(run)
    return {
        "name": name,
        "plot": time_plot(f"time-{at}", run),
        "rows": server_rows(run),
        "growth": growth_sentence(growth) if growth else None,
        "samples": len(run.samples),
    }


def diff_page(found: Comparison) -> str:
    """Render the comparison of two sides."""
    from loadtest.report.ratios import ratio_plot

    worse, better = found.found("worse"), found.found("better")
    return (
        environment(_PACKAGE)
        .get_template("diff.html.j2")
        .render(
            found=found,
            sentence=comparison_sentence(found),
            tone="bad" if worse else "good" if better else "",
            word="worse" if worse else "better" if better else "no difference",
            sides=[
                (name, [(run.name, where_sentence(run), run.setting.command) for run in runs])
                for name, runs in (("A", found.a), ("B", found.b))
            ],
            plot=ratio_plot(found.cells),
            rows=[diff_row(found, at) for at in range(len(found.cells))],
        )
    )


def diff_row(found: Comparison, at: int) -> Row:
    """One figure of a comparison, as a row of a table."""
    cell = found.cells[at]
    return {
        "level": level(cell.at),
        "figure": "requests/s" if cell.name == THROUGHPUT else f"{cell.name}, ms",
        "A": cell.a,
        "B": cell.b,
        "B / A": f"{cell.ratio:.3f}",
        "interval": interval_words(cell),
        "verdict": cell_words(cell),
    }
