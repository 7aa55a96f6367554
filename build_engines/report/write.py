"""Writes the report in its three forms."""

from __future__ import annotations

import json
from pathlib import Path

from build_engines.cache import disk_error
from build_engines.report.data import BuildReport
from build_engines.report.html import report_page
from build_engines.report.markdown import markdown_lines


def write_report(report: BuildReport, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``, each whole or not at all.

    Raises:
        BuildError: If the folder cannot be written, unless the build failed already: its own error
            says more.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "report.json", json.dumps(report.as_dict(), indent=2) + "\n")
        replace_text(folder / "report.md", "\n".join(markdown_lines(report)) + "\n")
        replace_text(folder / "report.html", report_page(report))
    except OSError as error:
        if report.failure is None:
            raise disk_error(error, folder) from error


def replace_text(path: Path, text: str) -> None:
    """Write beside the target, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
