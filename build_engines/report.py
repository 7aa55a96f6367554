"""The build report: ``report.json`` for machines, ``report.md`` for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from build_engines.cache import disk_error
from build_engines.context import StepReport
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import Recipe


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        name: The recipe's name.
        recipe: With all defaults.
        started: When, UTC.
        steps: One entry a step that ran to its end.
        failure: The error that ended the build, if one did.
        machine: Processor, cores, system.
        versions: Of the packages that took part.
    """

    name: str
    recipe: Recipe
    started: datetime
    steps: list[StepReport]
    failure: TritonForgeError | None
    machine: dict[str, str | int]
    versions: dict[str, str]

    def step(self, name: str) -> StepReport | None:
        """The report of one step, None if it did not run."""
        return next((step for step in self.steps if step.step == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Everything, in values that JSON knows."""
        return {
            "name": self.name,
            "status": "failed" if self.failure else "ok",
            "failure": self.failure.as_dict() if self.failure else None,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": sum(step.seconds for step in self.steps),
            "machine": self.machine,
            "versions": self.versions,
            "recipe": self.recipe.model_dump(mode="json"),
            "steps": [asdict(step) for step in self.steps],
        }


def write_report(report: BuildReport, folder: Path) -> None:
    """Write both forms, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "report.json", json.dumps(report.as_dict(), indent=2) + "\n")
        _replace(folder / "report.md", "\n".join(_markdown(report)) + "\n")
    except OSError as error:
        if report.failure is None:  # else the first error says more than this one
            raise disk_error(error, folder) from error


def _replace(path: Path, text: str) -> None:
    """Write beside the target, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _markdown(report: BuildReport) -> Iterator[str]:
    """The page, line by line."""
    yield f"# Build report: {report.name}"
    yield ""
    outcome = f"**failed**: {report.failure.what}" if report.failure else "**ok**"
    where = f"{report.machine['cpu']}, {report.machine['cores']} cores"
    yield f"{outcome}, {report.started:%Y-%m-%d %H:%M} UTC, on {where}."
    notes = [note for step in report.steps for note in step.notes]
    yield from ("", *(f"- {note}" for note in notes))
    yield from ("", "## Steps", "", "| step | | seconds | do it anew |", "| --- | --- | ---: | --- |")
    for step in report.steps:
        yield f"| {step.step} | {step.status} | {step.seconds:.2f} | `{step.repeat}` |"
    yield from _model_section(report)
    yield from _engine_section(report)
    yield from ("", "## Versions", "", "| package | version |", "| --- | --- |")
    yield from (f"| {name} | {version} |" for name, version in report.versions.items())


def _model_section(report: BuildReport) -> Iterator[str]:
    """Model facts and file hashes."""
    resolve = report.step("resolve")
    if resolve is None:
        return
    yield from ("", "## Model", "", "| | |", "| --- | --- |")
    yield f"| source | `{report.recipe.model}` |"
    yield f"| type | {resolve.figures['model_type']} |"
    for key, value in resolve.figures["spec"].items():
        if value not in ((), [], ""):
            yield f"| {key} | {', '.join(map(str, value)) if isinstance(value, list | tuple) else value} |"
    yield from ("", "| file | SHA-256 |", "| --- | --- |")
    yield from (f"| {name} | `{digest}` |" for name, digest in resolve.figures["sha256"].items())


def _engine_section(report: BuildReport) -> Iterator[str]:
    """One row for each engine that was tried."""
    compiled, check, measure = (report.step(name) for name in ("compile", "check", "measure"))
    if compiled is None:
        return
    yield from ("", "## Engines", "")
    yield (
        f"Precision {report.recipe.precision}. Parity against eager transformers, each text among neighbours "
        "of other lengths. Speed in one process, tokens in, batches of 32 from the recipe's length mix."
    )
    yield from (
        "",
        "| engine | MB | max difference | min cosine | texts/s | tokens/s | one text, ms | threads |",
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, facts in compiled.figures.items():
        cells = [name, f"{facts['bytes'] / 1e6:.1f}"]
        parity = check.figures.get(name) if check else None
        cells += [f"{parity['max_difference']:.1e}", f"{parity['min_cosine']:.6f}"] if parity else ["", ""]
        speed = measure.figures.get(name) if measure else None
        cells += (
            [
                f"{speed['sequences_per_second']:.0f}",
                f"{speed['tokens_per_second']:.0f}",
                f"{speed['single_ms']:.2f}",
                str(speed["threads"]),
            ]
            if speed
            else [""] * 4
        )
        yield f"| {' | '.join(cells)} |"
