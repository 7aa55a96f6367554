"""The benchmark as ``benchmark.json`` and as a page with plots, ``benchmark.html``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from build_engines.benchmark.measure import Benchmark, Cell, Length
from build_engines.cache import disk_error
from build_engines.report.plots import marks
from tritonforge.files import replace_text
from tritonforge.page.environment import environment
from tritonforge.page.formats import number
from tritonforge.page.svg import plot

_PANEL = 250  # CSS pixels
_COLUMNS = 2
_DASHES = {"o": "--"}  # by marker: two engines in one precision share a color


def write_benchmark(benchmark: Benchmark, folder: Path) -> Path:
    """Write both forms, each whole or not at all.

    Args:
        benchmark: What was measured.
        folder: Made if it is not there.

    Returns:
        Path of the page.

    Raises:
        BuildError: If the folder cannot be written.
    """
    page = folder / "benchmark.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "benchmark.json", json.dumps(benchmark.as_dict(), indent=2) + "\n")
        replace_text(page, benchmark_page(benchmark, has_report=(folder / "report.html").exists()))
    except OSError as error:
        raise disk_error(error, folder) from error
    return page


def benchmark_page(benchmark: Benchmark, has_report: bool = False) -> str:
    """Render the page: styles and plots inside, nothing fetched from anywhere.

    Args:
        benchmark: What was measured.
        has_report: Whether ``report.html`` lies beside it.
    """
    lengths = list(dict.fromkeys(cell.length for cell in benchmark.cells))
    best = {
        length: max((c for c in benchmark.cells if c.length == length), key=lambda c: c.tokens_per_second)
        for length in lengths
    }
    return (
        environment("build_engines.report")
        .get_template("benchmark.html.j2")
        .render(
            benchmark=benchmark,
            has_report=has_report,
            lengths=lengths,
            best=best,
            few=any(cell.rounds < 100 for cell in benchmark.cells),
            throughput=_panels(benchmark, "throughput", "Tokens per second", _throughput),
            latency=_panels(benchmark, "latency", "Milliseconds of a batch, median up to p99", _latency),
        )
    )


def length_name(length: Length) -> str:
    """For people."""
    return "length mix of the recipe" if length == "mix" else f"{length} tokens each"


Line = Callable[[Any, Sequence[Cell], str, str], None]


def _throughput(axes: Any, cells: Sequence[Cell], marker: str, color: str) -> None:
    """A line over batch sizes."""
    rates = [cell.tokens_per_second for cell in cells]
    style = _DASHES.get(marker, "-")
    axes.plot(range(len(cells)), rates, style, marker=marker, color=color, linewidth=2, label=cells[0].part)
    axes.set_ylim(0, max(axes.get_ylim()[1], max(rates) * 1.08))


def _latency(axes: Any, cells: Sequence[Cell], marker: str, color: str) -> None:
    """Medians as a line, with a bar up to the 99th percentile."""
    from matplotlib.ticker import LogLocator

    medians = [cell.p50_ms for cell in cells]
    axes.errorbar(
        range(len(cells)),
        medians,
        yerr=[[0.0] * len(cells), [cell.p99_ms - cell.p50_ms for cell in cells]],
        linestyle=_DASHES.get(marker, "-"),
        marker=marker,
        color=color,
        linewidth=2,
        elinewidth=1.5,
        capsize=4,
        label=cells[0].part,
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.yaxis.set_minor_formatter(lambda value, _: "")


def _panels(benchmark: Benchmark, name: str, title: str, line: Line) -> Markup:
    """One panel a length, one line a candidate, batch sizes across."""
    lengths = list(dict.fromkeys(cell.length for cell in benchmark.cells))
    engines = benchmark.engines
    looks = marks(
        [facts["engine"] for facts in engines.values()], [facts["precision"] for facts in engines.values()]
    )

    def draw(figure: Any, narrow: bool) -> None:
        across = 1 if narrow else min(_COLUMNS, len(lengths))
        grid = list(figure.subplots(-(-len(lengths) // across), across, squeeze=False).flat)
        for axes, length in zip(grid, lengths, strict=False):
            for part, (marker, color) in zip(engines, looks, strict=True):
                cells = [c for c in benchmark.cells if c.length == length and c.part == part]
                line(axes, cells, marker, color)
            axes.set_xticks(range(len(cells)), [str(cell.batch) for cell in cells])
            axes.set_title(length_name(length))
            axes.set_xlabel("texts in a batch")
        for axes in grid[len(lengths) :]:  # what is left of the last row
            axes.remove()
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=1 if narrow else 3)

    said = "; ".join(
        f"{c.part}, {c.batch} texts, {length_name(c.length)}: {number(c.tokens_per_second)} tokens/s, "
        f"median {number(c.p50_ms)} ms, p99 {number(c.p99_ms)} ms"
        for c in benchmark.cells
    )
    rows, legend = -(-len(lengths) // _COLUMNS), 20 * len(engines)
    return plot(name, title, said, _PANEL * rows + legend, draw, _PANEL * len(lengths) + legend)
