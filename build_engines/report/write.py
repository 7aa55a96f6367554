"""Writes the report in its three forms."""

from __future__ import annotations

import json
from pathlib import Path

from build_engines.cache import disk_error
from build_engines.report.data import BuildReport
from build_engines.report.html import report_page
from build_engines.report.markdown import markdown_lines
from tritonforge.files import replace_text


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
