"""Runs the steps of a build and writes its report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build_engines.cache import build_lock
from build_engines.context import BuildContext, Status, Step, StepReport
from build_engines.report import BuildReport, write_report
from build_engines.steps import STEP_NAMES, STEPS
from build_engines.versions import EXPORT_PACKAGES, machine, package_versions
from tritonforge.errors import BuildError, TritonForgeError, UsageError
from tritonforge.recipe import Recipe

REPORTED_PACKAGES = (*EXPORT_PACKAGES, "tritonforge", "onnxruntime", "openvino", "nncf", "numpy")


def build(context: BuildContext, until: str | None = None) -> BuildReport:
    """Run the steps in order and write ``report.json``, ``report.md`` and ``report.html``.

    Args:
        context: Recipe and folders.
        until: Name of the last step to run; all by default.

    Returns:
        The report, which is also on the disk.

    Raises:
        TritonForgeError: From the step that failed. The report then says where; what was published
            before is untouched.
    """
    with build_lock(context.store.root, context.progress):
        return _build(context, until)


def _build(context: BuildContext, until: str | None) -> BuildReport:
    """Run the steps in a folder that is ours alone."""
    started = datetime.now(UTC)
    reports: list[StepReport] = []
    failure: TritonForgeError | None = None
    try:
        for step in _steps_until(until):
            context.progress(step.name)
            _run(step, context, reports)
    except TritonForgeError as error:
        failure = error
        raise
    except BaseException as error:  # a bug or Ctrl-C: the report must not say that all went well
        failure = BuildError(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        report = BuildReport(
            name=context.recipe.name,
            recipe=context.recipe,
            started=started,
            steps=reports,
            failure=failure,
            machine=machine(),
            versions=package_versions(REPORTED_PACKAGES),
        )
        write_report(report, context.build_dir)
    return report


def _run(step: Step, context: BuildContext, reports: list[StepReport]) -> None:
    """Run one step and note what it told, also if it failed and had figures to show."""
    start = time.perf_counter()

    def note(status: Status, figures: Mapping[str, Any], notes: tuple[str, ...] = ()) -> None:
        seconds = time.perf_counter() - start
        repeat = repeat_command(context.recipe_path, step.name)
        reports.append(StepReport(step.name, status, seconds, dict(figures), notes, repeat))

    try:
        outcome = step.run(context)
    except TritonForgeError as error:
        if error.figures:
            note("failed", error.figures)
        raise
    status: Status = "skipped" if outcome.skipped else "reused" if outcome.reused else "done"
    note(status, outcome.figures, outcome.notes)


def repeat_command(recipe_path: Path, step: str) -> str:
    """The command that does one step anew, from the artefacts of those before."""
    return f"tritonforge build {shlex.quote(str(recipe_path))} --rerun {step} --until {step}"


def check_step_name(option: str, name: str | None) -> None:
    """Refuse the name of a step that does not exist."""
    if name is not None and name not in STEP_NAMES:
        raise UsageError(f"{option} {name!r} is no step", mend=f"steps are {', '.join(STEP_NAMES)}")


def _steps_until(last: str | None) -> Iterator[Step]:
    """Steps up to and with ``last``."""
    for step in STEPS:
        yield step
        if step.name == last:
            return


def make_context(
    recipe: Recipe,
    recipe_path: Path,
    repository: Path,
    build_root: Path,
    rerun: str | None = None,
    force: bool = False,
) -> BuildContext:
    """Set up a build; artefacts and report go to ``build_root/NAME``."""
    return BuildContext(
        recipe=recipe,
        recipe_path=recipe_path,
        repository=repository,
        build_dir=build_root / recipe.name,
        rerun=rerun,
        force=force,
    )
