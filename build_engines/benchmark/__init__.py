"""``tritonforge benchmark``: latency and throughput by batch size and length."""

from build_engines.benchmark.measure import Benchmark, Cell, Grid, run_benchmark, served_precisions
from build_engines.benchmark.page import write_benchmark

__all__ = ["Benchmark", "Cell", "Grid", "run_benchmark", "served_precisions", "write_benchmark"]
