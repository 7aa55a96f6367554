"""The report as one HTML page that stands alone."""

from __future__ import annotations

import yaml

from build_engines.report.candidates import candidate_rows, headline
from build_engines.report.data import BuildReport
from build_engines.report.generators import generator_cells, generator_rows, stream_counts
from build_engines.report.plots import accuracy_plot
from build_engines.report.sections import prune_section, quantize_sections, tensorrt_notes
from tritonforge.page.environment import environment


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
        environment("build_engines.report")
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
