"""``tritonforge loadtest report`` and ``diff``: what load tests came to, and how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import UsageError

if TYPE_CHECKING:
    from loadtest.report.compare import Comparison
    from loadtest.report.plots import Read
    from loadtest.report.slo import Slo
    from loadtest.results import LoadRun

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Milliseconds = typer.Option(min=0.0, metavar="MS", show_default=False)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders of load tests, or folders that hold several."),
    ],
    slo_p50_ms: Annotated[float | None, Milliseconds] = None,
    slo_p95_ms: Annotated[float | None, Milliseconds] = None,
    slo_p99_ms: Annotated[float | None, Milliseconds] = None,
    slo_ttft_p99_ms: Annotated[
        float | None, typer.Option(min=0.0, metavar="MS", help="Time to first token.", show_default=False)
    ] = None,
    slo_per_token_p99_ms: Annotated[
        float | None, typer.Option(min=0.0, metavar="MS", help="Time between tokens.", show_default=False)
    ] = None,
    slo_errors: Annotated[
        float, typer.Option(min=0.0, max=100.0, metavar="PERCENT", help="Of the requests may fail.")
    ] = 1.0,
    output: Annotated[
        Path | None, typer.Option(help="The page, FILE.html, or its folder; default: the first DIR.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one page on load tests, of whichever tool: capacity, knee, plots, warnings.

    Objectives that are given hold together; without one, the page tells no capacity.
    """
    _require()
    from loadtest.report import read_runs, write_report
    from loadtest.report.checks import warnings
    from loadtest.report.page import read_sweeps

    slo = make_slo(slo_p50_ms, slo_p95_ms, slo_p99_ms, slo_ttft_p99_ms, slo_per_token_p99_ms, slo_errors)
    read = [run for path in runs for run in read_runs(path)]
    page = write_report(read, output or (runs[0] if runs[0].is_dir() else runs[0].parent), slo)
    reads = read_sweeps(read, slo)
    if as_json:
        said = [warning for run in read for warning in warnings(run)]
        print_json({"page": str(page), "sweeps": [_facts(one) for one in reads], "warnings": said})
        return
    for one in reads:
        _print_sweep(one)
    for warning in [warning for run in read for warning in warnings(run)]:
        console.print(f"mind: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)


def make_slo(
    p50: float | None,
    p95: float | None,
    p99: float | None,
    first_token: float | None,
    per_token: float | None,
    errors: float,
) -> Slo | None:
    """The objective that options name; None where they name no time.

    Args:
        p50: Milliseconds of the median latency, and so on.
        p95: Of the 95th percentile.
        p99: Of the 99th.
        first_token: Of the 99th percentile of the time to the first token.
        per_token: Of the 99th percentile of the time between tokens.
        errors: Percent of the requests that may fail.
    """
    from loadtest.report.slo import Objective, Slo

    given = (
        ("latency", "p50", p50),
        ("latency", "p95", p95),
        ("latency", "p99", p99),
        ("first_token", "p99", first_token),
        ("per_token", "p99", per_token),
    )
    found = tuple(
        Objective(of, statistic, limit)  # type: ignore[arg-type]  # as the table above has them
        for of, statistic, limit in given
        if limit is not None
    )
    return Slo(found, errors / 100) if found else None


def _require() -> None:
    require("a report", "loadtest", "jinja2", "matplotlib", "scipy")


def _facts(read: Read) -> dict[str, Any]:
    """What was read from a sweep, for machines."""
    from loadtest.report.sweep import unsound
    from loadtest.report.words import capacity_sentence, knee_sentence

    found: dict[str, Any] = {
        "run": read.sweep.run.name,
        "kind": read.sweep.kind,
        "levels": [point.level for point in read.sweep.points],
        "left_out": [point.level for point in read.sweep.points if unsound(point)],
        "result": capacity_sentence(read),
        "capacity": None,
        "knee": None,
    }
    if read.knee:
        found["knee"] = {
            "level": read.knee.point.level,
            "requests_per_second": read.knee.point.requests_per_second,
            "edge": read.knee.edge,
            "said": knee_sentence(read),
        }
    if (capacity := read.capacity) is not None:
        interval = capacity.interval
        found["capacity"] = {
            "slo": str(capacity.slo),
            "outcome": capacity.outcome,
            "requests_per_second": capacity.requests_per_second,
            "items_per_second": capacity.items_per_second,
            "interval": interval and [interval[0], None if interval[1] == float("inf") else interval[1]],
            "last_level_that_meets": capacity.met and capacity.met.level,
            "first_that_misses": capacity.missed and capacity.missed.level,
            "why": capacity.why,
            "notes": capacity.notes,
        }
    return found


def _print_sweep(read: Read) -> None:
    """The result, the knee and a row a level."""
    from loadtest.report.page import curve_row
    from loadtest.report.words import capacity_sentence, knee_sentence, where_sentence

    console.print(capacity_sentence(read), style="bold", markup=False, highlight=False, soft_wrap=True)
    for line in (knee_sentence(read), where_sentence(read.sweep.run)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    _print_table([curve_row(point, read) for point in read.sweep.points])


def _print_table(rows: list[Any]) -> None:
    from tritonforge.page.formats import figure

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for at, name in enumerate(rows[0] if rows else ()):
        numeric = any(isinstance(list(row.values())[at], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name not in ("", "verdict"))
    for row in rows:
        table.add_row(*(figure(value) if value != "" else "" for value in row.values()))
    console.print(table, markup=False, highlight=False)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A load test's folder, or one that holds several.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same, of what is compared to A.")],
    more_a: Annotated[
        list[Path] | None, typer.Option("--more-a", metavar="DIR", help="Another run of A; repeat it.")
    ] = None,
    more_b: Annotated[
        list[Path] | None, typer.Option("--more-b", metavar="DIR", help="Another run of B; repeat it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also write a page, FILE.html, or diff.html in a folder.")
    ] = None,
    fail_on_regression: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="PERCENT",
            help="Exit with 1 where B is worse for sure, and by more than this.",
            show_default=False,
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare even where a request was another thing in A and in B.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two load tests level by level: ratios with intervals, and whether they are more than chance."""
    _require()
    from loadtest.report import compare, read_runs, write_diff

    sides = [
        [run for path in (one, *(more or ())) for run in read_runs(path)]
        for one, more in ((a, more_a), (b, more_b))
    ]
    if not anyway:
        refuse_other_requests(*sides)
    found = compare(*sides)
    page = write_diff(found, output) if output else None
    regressions = [] if fail_on_regression is None else found.regressions(fail_on_regression)
    if as_json:
        print_json(_diff_facts(found, page, regressions))
    else:
        _print_diff(found, page)
        for said in regressions:
            err_console.print(f"regression: {said}", style="bold red", markup=False, soft_wrap=True)
    if regressions:
        raise typer.Exit(1)


def refuse_other_requests(a: list[LoadRun], b: list[LoadRun]) -> None:
    """Refuse to compare where a request of A is no request of B.

    Raises:
        UsageError: It is not, with what differs.
    """
    from loadtest.report.differences import differences

    decisive = [one for one in differences(a, b) if one.decisive]
    if decisive:
        said = "; ".join(f"{one.name}: {one.a} against {one.b}" for one in decisive)
        raise UsageError(
            f"A and B were not asked the same ({said})",
            mend="run one of them again with the settings of the other, or compare them with --anyway",
        )


def _diff_facts(found: Comparison, page: Path | None, regressions: list[str]) -> dict[str, Any]:
    """The comparison, for machines."""
    from loadtest.report.words import comparison_sentence

    return {
        "result": comparison_sentence(found),
        "page": page and str(page),
        "judged_by": "runs" if found.by_runs else "windows",
        "settings": [{"name": one.name, "a": one.a, "b": one.b} for one in found.settings],
        "notes": found.notes,
        "regressions": regressions,
        "figures": [
            {
                "kind": cell.at.kind,
                "level": cell.at.level,
                "figure": cell.name,
                "a": cell.a,
                "b": cell.b,
                "ratio": cell.ratio,
                "interval": None if cell.low is None else [cell.low, cell.high],
                "p": cell.chance,
                "verdict": cell.verdict,
                "why": cell.why or None,
            }
            for cell in found.cells
        ],
    }


def _print_diff(found: Comparison, page: Path | None) -> None:
    """What differs in the settings first, then the figures, then what they come to."""
    from loadtest.report.page import diff_row
    from loadtest.report.words import comparison_sentence

    for one in found.settings:
        line = f"differs: {one.name}: {one.a} in A, {one.b} in B"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    _print_table([diff_row(found, at) for at in range(len(found.cells))])
    console.print(comparison_sentence(found), style="bold", markup=False, highlight=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"mind: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if page:
        console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
