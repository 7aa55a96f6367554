"""Writes reports and comparisons, each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.report.checks import warnings
from loadtest.report.compare import Comparison
from loadtest.report.page import curve_row, diff_page, load_page, read_sweeps
from loadtest.report.slo import Slo
from loadtest.report.words import capacity_sentence, knee_sentence, where_sentence
from loadtest.results import LoadRun, read_run
from tritonforge.files import replace_text
from tritonforge.page.formats import figure

REPORT, DIFF = "report.html", "diff.html"


def read_runs(path: Path) -> list[LoadRun]:
    """Read a run's folder, or a folder with such folders: several runs of the same.

    Raises:
        LoadTestError: There is none, or one cannot be read.
    """
    if path.is_dir() and not (path / "run.json").exists():
        inner = sorted(path.glob("*/run.json"))
        if inner:
            return [read_run(file) for file in inner]
    return [read_run(path)]


def write_report(runs: Sequence[LoadRun], path: Path, slo: Slo | None = None) -> Path:
    """Write the page, and its short form in Markdown beside it.

    Args:
        runs: One or more.
        path: The page, or the folder for ``report.html``; folders are made.
        slo: What must hold; without it no capacity is told.

    Returns:
        The page.

    Raises:
        LoadTestError: It cannot be written.
    """
    page = path if path.suffix == ".html" else path / REPORT
    _write(page, load_page(runs, slo))
    _write(page.with_suffix(".md"), "\n".join(markdown_lines(runs, slo)) + "\n")
    return page


def write_diff(found: Comparison, path: Path) -> Path:
    """Write the page of a comparison.

    Args:
        found: What was compared.
        path: The page, or the folder for ``diff.html``.

    Returns:
        The page.

    Raises:
        LoadTestError: It cannot be written.
    """
    page = path if path.suffix == ".html" else path / DIFF
    _write(page, diff_page(found))
    return page


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)
    except OSError as error:
        raise LoadTestError(
            f"cannot write the report: {error.strerror or error}",
            where=str(path),
            mend="free disk space or mend permissions, or name another file with --output",
        ) from error


def markdown_lines(runs: Sequence[LoadRun], slo: Slo | None) -> Iterator[str]:
    """The short form, line by line."""
    yield f"# Load test of {' and '.join(dict.fromkeys(run.setting.model for run in runs))}"
    for read in read_sweeps(runs, slo):
        run = read.sweep.run
        yield from ("", f"## {read.name}") if read.name else ()
        yield from ("", capacity_sentence(read), knee_sentence(read), where_sentence(run))
        yield from ("", *markdown_table([curve_row(point, read) for point in read.sweep.points]))
    for run in runs:
        yield from ("", "Do it again:", "", "```", run.setting.command, "```")
        said = warnings(run)
        yield from ("", *(f"- {escape(warning, quote=False)}" for warning in said)) if said else ()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rows with the same keys as a table."""
    if rows:
        yield f"| {' | '.join(rows[0])} |"
        yield f"|{' --- |' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(figure(value).replace('|', '') for value in row.values())} |"
