"""The report as one HTML page that stands alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from build_engines.report.candidates import candidate_rows, headline
from build_engines.report.data import BuildReport
from build_engines.report.formats import ABSENT, FILTERS
from build_engines.report.generators import generator_cells, generator_rows, stream_counts
from build_engines.report.plots import accuracy_plot
from build_engines.report.sections import prune_section, quantize_sections, tensorrt_notes


@cache
def environment() -> jinja2.Environment:
    """Templates of this package; everything they print is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("build_engines.report"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # what a step did not say is left out
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update({name: _tolerant(write) for name, write in FILTERS.items()})
    made.filters["columns"] = columns
    made.tests["plain"] = is_plain
    made.globals["style"] = Markup(made.loader.get_source(made, "style.css")[0]) if made.loader else ""
    return made


def _tolerant(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same filter, which takes what is not there for None."""
    return lambda value: ABSENT if isinstance(value, jinja2.Undefined) else write(value)


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def is_plain(value: Any) -> bool:
    """Whether a figure fits a line: no mapping, and no list of mappings."""
    if isinstance(value, list | tuple):
        return not any(isinstance(inner, Mapping | list | tuple) for inner in value)
    return not isinstance(value, Mapping)


def report_page(report: BuildReport) -> str:
    """Render ``report.html``.

    Args:
        report: Of a build that came to any step, or failed at any.

    Returns:
        The page: styles and plots inside, nothing fetched from anywhere.
    """
    rows, generators = candidate_rows(report), generator_rows(report)
    streams = stream_counts(generators)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            rows=rows,
            headline=headline(report, rows or generators),
            generators=[(row, generator_cells(row, streams)) for row in generators],
            accuracy_plot=accuracy_plot(rows),
            quantized=quantize_sections(report),
            pruned=prune_section(report),
            tensorrt=tensorrt_notes(report),
            recipe=yaml.safe_dump(report.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        )
    )
