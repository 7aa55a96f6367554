"""The report of load tests, whichever tool made the load, and the comparison of two."""

from loadtest.report.compare import Comparison, compare
from loadtest.report.slo import Objective, Slo
from loadtest.report.write import read_runs, write_diff, write_report

__all__ = ["Comparison", "Objective", "Slo", "compare", "read_runs", "write_diff", "write_report"]
