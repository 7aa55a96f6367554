"""The short form of the report, for terminals and diffs: ``report.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from build_engines.report.candidates import CandidateRow, candidate_rows, headline
from build_engines.report.data import BuildReport
from build_engines.report.generators import GeneratorRow, generator_cells, generator_rows, stream_counts
from tritonforge.page.formats import cosine, figure, megabytes, number, times


def markdown_lines(report: BuildReport) -> Iterator[str]:
    """The page, line by line."""
    yield f"# Build report: {report.name}"
    yield ""
    outcome = f"**failed**: {report.failure.what}" if report.failure else "**ok**"
    where = f"{report.machine['cpu']}, {report.machine['cores']} cores"
    yield f"{outcome}, {report.started:%Y-%m-%d %H:%M} UTC, on {where}."
    rows, generators = candidate_rows(report), generator_rows(report)
    summary = headline(report, rows or generators)
    yield from ("", summary.sentence)
    notes = [note for step in report.steps for note in step.notes]
    yield from ("", *(f"- {note}" for note in notes))
    yield from _refusals(summary.causes)
    yield from ("", "## Steps", "", "| step | | seconds | do it anew |", "| --- | --- | ---: | --- |")
    for step in report.steps:
        yield f"| {step.step} | {step.status} | {step.seconds:.2f} | `{step.repeat}` |"
    yield from _model_section(report)
    yield from _engine_section(rows)
    yield from _generator_section(generators)
    yield from _quantize_section(report.figures("quantize"))
    yield from ("", "## Versions", "", "| package | version |", "| --- | --- |")
    yield from (f"| {name} | {version} |" for name, version in report.versions.items())


def _cell(value: Any) -> str:
    """A figure that does not break its table."""
    return figure(value).replace("|", "\\|").replace("\n", " ")


def _refusals(causes: Any) -> Iterator[str]:
    """What the gate refuses, and what to try."""
    if not causes:
        return
    yield from ("", "## The gate refuses", "", "| | check | figure | threshold | what to try |")
    yield "| --- | --- | ---: | ---: | --- |"
    for cause in causes:
        cells = (cause.get(key) for key in ("subject", "name", "figure", "threshold", "mend"))
        yield f"| {' | '.join(map(_cell, cells))} |"


def _model_section(report: BuildReport) -> Iterator[str]:
    """Model facts and file hashes."""
    resolve = report.model
    if not resolve:
        return
    yield from ("", "## Model", "", "| | |", "| --- | --- |")
    yield f"| source | `{report.recipe.model}` |"
    yield f"| type | {resolve.get('model_type')} |"
    for key, value in resolve.get("spec", {}).items():
        if value not in ((), [], ""):
            yield f"| {key} | {_cell(value)} |"
    yield from ("", "| file | SHA-256 |", "| --- | --- |")
    yield from (f"| {name} | `{digest}` |" for name, digest in resolve.get("sha256", {}).items())


def _engine_section(rows: list[CandidateRow]) -> Iterator[str]:
    """One row for each engine and precision that was tried."""
    if not rows:
        return
    yield from ("", "## Engines", "")
    yield (
        "Cosine to the reference in float32, on held-out texts where there are some, else on random tokens. "
        "Speed in one process, tokens in, batches of 32 from the recipe's length mix."
    )
    yield from (
        "",
        "| candidate | MB | mean cosine | min cosine | texts/s | to fp32 | tokens/s | one text, ms | threads "
        "| gate |",
    )
    yield f"| --- {'| ---: ' * 8}| --- |"
    for row in rows:
        cells = [
            f"**{row.part}**" if row.chosen else row.part,
            megabytes(row.size_bytes),
            cosine(row.mean_cosine),
            cosine(row.min_cosine),
            number(row.texts_per_second),
            times(row.speedup),
            number(row.tokens_per_second),
            number(row.single_ms),
            figure(row.threads),
            f"{row.outcome}, chosen" if row.chosen else row.outcome,
        ]
        yield f"| {' | '.join(cells)} |"


def _generator_section(rows: list[GeneratorRow]) -> Iterator[str]:
    """One row for each precision of a generator."""
    if not rows:
        return
    streams = stream_counts(rows)
    cells = {row.part: generator_cells(row, streams) for row in rows}
    headings = list(cells[rows[0].part])
    yield from ("", "## Precisions", "")
    yield (
        "Against the model in float32, by transformers. Speed in one process, tokens in, tokens out: all "
        "streams together."
    )
    yield from (
        "",
        f"| candidate | {' | '.join(headings)} |",
        f"| --- {'| ---: ' * (len(headings) - 1)}| --- |",
    )
    for row in rows:
        name = f"**{row.part}**" if row.chosen else row.part
        yield f"| {name} | {' | '.join(map(_cell, cells[row.part].values()))} |"


def _quantize_section(quantized: Mapping[str, Any]) -> Iterator[str]:
    """A line a precision; the layers are in ``report.html`` and ``report.json``."""
    if not quantized:
        return
    yield from ("", "## Quantization", "")
    for precision, found in quantized.items():
        plain = {key: value for key, value in found.items() if isinstance(value, int | float | str)}
        yield f"- {precision}: {_cell(plain)}"
