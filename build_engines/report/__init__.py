"""The build report: ``report.json`` for machines, ``report.md`` and ``report.html`` for people."""

from build_engines.report.data import BuildReport
from build_engines.report.write import write_report

__all__ = ["BuildReport", "write_report"]
