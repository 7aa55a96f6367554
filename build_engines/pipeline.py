"""Runs the steps of a build and writes its report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from build_engines.cache import build_lock
from build_engines.context import BaseContext, BuildContext, Status, StepOutcome, StepReport
from build_engines.generation.context import GenerationContext
from build_engines.generation.steps import GENERATION_STEPS
from build_engines.report import BuildReport, write_report
from build_engines.steps import STEP_NAMES, STEPS
from build_engines.versions import EXPORT_PACKAGES, machine, package_versions
from tritonforge.errors import BuildError, TritonForgeError, UsageError
from tritonforge.recipe import Recipe

REPORTED_PACKAGES = (*EXPORT_PACKAGES, "tritonforge", "onnxruntime", "openvino", "nncf", "numpy")
GENERATION_PACKAGES = (
    "tritonforge",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "openvino",
    "openvino-genai",
    "openvino-tokenizers",
    "nncf",
    "numpy",
)

AnyContext = BuildContext | GenerationContext
_Run = Callable[[], StepOutcome]


def build(context: AnyContext, until: str | None = None) -> BuildReport:
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


def _build(context: AnyContext, until: str | None) -> BuildReport:
    """Run the steps in a folder that is ours alone."""
    started = datetime.now(UTC)
    reports: list[StepReport] = []
    failure: TritonForgeError | None = None
    try:
        for name, run in _until(until, steps_of(context)):
            context.progress(name)
            _run(name, run, context, reports)
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
            versions=package_versions(
                GENERATION_PACKAGES if isinstance(context, GenerationContext) else REPORTED_PACKAGES
            ),
        )
        write_report(report, context.build_dir)
    return report


def steps_of(context: AnyContext) -> dict[str, _Run]:
    """The steps for what the recipe's task makes, in order, ready to run."""
    if isinstance(context, GenerationContext):
        return {step.name: partial(step.run, context) for step in GENERATION_STEPS}
    return {step.name: partial(step.run, context) for step in STEPS}


def _run(name: str, run: _Run, context: BaseContext, reports: list[StepReport]) -> None:
    """Run one step and note what it told, also if it failed and had figures to show."""
    start = time.perf_counter()

    def note(status: Status, figures: Mapping[str, Any], notes: tuple[str, ...] = ()) -> None:
        seconds = time.perf_counter() - start
        repeat = repeat_command(context.recipe_path, name)
        reports.append(StepReport(name, status, seconds, dict(figures), notes, repeat))

    try:
        outcome = run()
    except TritonForgeError as error:
        if error.figures:
            note("failed", error.figures)
        raise
    status: Status = "skipped" if outcome.skipped else "reused" if outcome.reused else "done"
    note(status, outcome.figures, outcome.notes)


def repeat_command(recipe_path: Path, step: str) -> str:
    """The command that does one step anew, from the artefacts of those before."""
    return f"tritonforge build {shlex.quote(str(recipe_path))} --rerun {step} --until {step}"


def step_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the steps that a recipe takes."""
    steps: Sequence[Any] = GENERATION_STEPS if recipe.task == "generation" else STEPS
    return tuple(step.name for step in steps)


def check_step_name(option: str, name: str | None, known: Sequence[str] = STEP_NAMES) -> None:
    """Refuse the name of a step that does not exist."""
    if name is not None and name not in known:
        raise UsageError(f"{option} {name!r} is no step", mend=f"steps are {', '.join(known)}")


def _until(last: str | None, steps: Mapping[str, _Run]) -> Iterator[tuple[str, _Run]]:
    """Steps up to and with ``last``."""
    for name, run in steps.items():
        yield name, run
        if name == last:
            return


def any_context(
    recipe: Recipe,
    recipe_path: Path,
    repository: Path,
    build_root: Path,
    rerun: str | None = None,
    force: bool = False,
) -> AnyContext:
    """Set up a build of any task; artefacts and report go to ``build_root/NAME``."""
    kind = GenerationContext if recipe.task == "generation" else BuildContext
    return kind(
        recipe=recipe,
        recipe_path=recipe_path,
        repository=repository,
        build_dir=build_root / recipe.name,
        rerun=rerun,
        force=force,
    )


def make_context(
    recipe: Recipe,
    recipe_path: Path,
    repository: Path,
    build_root: Path,
    rerun: str | None = None,
    force: bool = False,
) -> BuildContext:
    """Set up an encoder's build.

    Raises:
        UsageError: If the recipe generates text.
    """
    context = any_context(recipe, recipe_path, repository, build_root, rerun, force)
    if isinstance(context, GenerationContext):
        raise UsageError(
            "the recipe generates text, and this is for encoders",
            where=str(recipe_path),
            mend="give the recipe of an embedding or classification model",
        )
    return context
