"""``benchmark.html``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from build_engines.benchmark import Benchmark, Cell
from build_engines.benchmark.page import benchmark_page

PARTS = {"openvino-fp32": 1.0, "openvino-int8": 2.0, "tensorrt-fp16": None}
BENCHMARK = Benchmark(
    name="toy",
    started=datetime.now(UTC),
    machine={"cpu": "<a processor>", "cores": 2},
    versions={"openvino": "2026.4"},
    seconds=1.0,
    token_budget=4096,
    engines={
        part: {
            "engine": part.partition("-")[0],
            "precision": part.partition("-")[2],
            "layout": "packed",
            "bytes": 1_000_000,
            "threads": 1,
        }
        for part in PARTS
    },
    skipped={"onnxruntime-fp32": "it <refuses>"},
    notes=("the machine was busy",),
    cells=tuple(
        Cell(part, batch, length, 16.0 * batch, 50, 2.5, 3.5, 4.5, 1234.5, 9876.5, speedup)
        for length in (16, 64, "mix")
        for batch in (1, 8)
        for part, speedup in PARTS.items()
    ),
)


def test_the_page(read: Callable[[str], Any]) -> None:
    page = read(benchmark_page(BENCHMARK, has_report=True))
    text = " ".join(page.text)
    assert page.tags["svg"] == 4, "throughput and latency, each wide and narrow"
    row = ["8", "openvino-int8", "2.5", "3.5", "4.5", "1,234", "9,876", "2.00\N{MULTIPLICATION SIGN}", "50"]
    assert row in [[cell.strip() for cell in row] for row in page.rows]
    assert "<a processor>" in text and "it <refuses>" in text and "the machine was busy" in text
    assert ("href", "report.html") in page.attributes
    assert "fewer than 100" in text


def test_one_length_and_one_batch(read: Callable[[str], Any]) -> None:
    one = replace(BENCHMARK, cells=BENCHMARK.cells[:3], skipped={}, notes=())
    page = read(benchmark_page(one))
    assert ("href", "report.html") not in page.attributes
    assert page.tags["svg"] == 4
