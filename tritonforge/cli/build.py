"""``tritonforge build``: a recipe becomes a model repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import EngineChoice, PrecisionChoice, dump_recipe, load_recipe

if TYPE_CHECKING:
    from build_engines.report import BuildReport


def build(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, for example recipes/minilm.yaml.")],
    repository: Annotated[Path, typer.Option(help="Model repository to publish to.")] = Path(
        "model_repository"
    ),
    build_dir: Annotated[Path, typer.Option(help="Artefacts and reports go to BUILD_DIR/NAME.")] = Path(
        "build"
    ),
    engine: Annotated[EngineChoice | None, typer.Option(help="Overrides the recipe's engine.")] = None,
    precision: Annotated[
        PrecisionChoice | None, typer.Option(help="Overrides the recipe's precision.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Overrides the recipe's name.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides any recipe key.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STEP", help="Stop after this step.")] = None,
    rerun: Annotated[
        str | None, typer.Option(metavar="STEP", help="Do this step anew, even if nothing changed.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even what the gate refuses; the report says so.")
    ] = False,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the recipe with every default, and stop.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build RECIPE into a model repository: export, quantize, compile, check, measure, judge, publish.

    What was built from the same recipe, model files and versions is reused. The old version stays in
    place until the new one is complete.
    """
    given = {"engine": engine, "precision": precision, "name": name}
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    loaded = load_recipe(recipe, overrides)
    if print_recipe:
        typer.echo(dump_recipe(loaded), nl=False)
        return
    generates = loaded.task == "generation"
    require(
        "building",
        "build",
        "torch",
        "transformers",
        *(("openvino_genai", "openvino_tokenizers", "nncf") if generates else ("onnx", "onnxruntime")),
        "openvino",
        "tritonclient",
        "jinja2",
        "matplotlib",
    )
    from build_engines.pipeline import any_context, check_step_name, step_names
    from build_engines.pipeline import build as run_build

    known = step_names(loaded)
    check_step_name("--until", until, known)
    check_step_name("--rerun", rerun, known)
    context = any_context(loaded, recipe, repository, build_dir, rerun, force)
    if json_:
        print_json(run_build(context, until).as_dict())
        return
    try:
        with err_console.status("resolve") as status:
            context.progress = status.update
            report = run_build(context, until)
    except TritonForgeError:
        err_console.print(f"report: {context.build_dir / 'report.html'}", highlight=False, soft_wrap=True)
        raise
    _print_report(report, context.build_dir)


def _print_report(report: BuildReport, build_dir: Path) -> None:
    """The steps and the engines as tables."""
    steps = Table(title=f"build {report.name}", title_justify="left")
    for header in ("step", "", "seconds", "what it came to"):
        steps.add_column(header, justify="right" if header == "seconds" else "left")
    for step in report.steps:
        steps.add_row(step.step, step.status, f"{step.seconds:.2f}", "; ".join(step.notes))
    console.print(steps)
    if report.recipe.task == "generation" and report.step("compress"):
        console.print(_generators(report))
    elif measure := report.step("measure"):
        console.print(_candidates(report, measure.figures))
    published = report.step("publish")
    if published:
        figures = published.figures
        console.print(
            f"{figures['repository']}: {', '.join(figures['models'])}, version {figures['version']}",
            highlight=False,
        )
    console.print(f"report: {build_dir / 'report.html'}", highlight=False)


def _generators(report: BuildReport) -> Table:
    """One row for each precision of a generator that was tried."""
    from build_engines.report.generators import RISE, generator_cells, generator_rows, stream_counts

    rows = generator_rows(report)
    streams = stream_counts(rows)
    table = Table()
    table.add_column("engine, precision", no_wrap=True)
    for row in rows:
        # The rest is in the report: a terminal is narrow.
        shown = ("MB", RISE, "gate")
        all_cells = generator_cells(row, streams).items()
        cells = {key: cell for key, cell in all_cells if key in shown or key.startswith("tokens/s")}
        if not table.rows:
            for heading in cells:
                table.add_column(heading, justify="left" if heading == "gate" else "right")
        table.add_row(row.part, *cells.values())
    return table


def _candidates(report: BuildReport, speeds: Mapping[str, Any]) -> Table:
    """One row for each engine and precision that was tried."""
    check, gate = report.step("check"), report.step("gate")
    table = Table()
    table.add_column("engine, precision", no_wrap=True)
    for header in ("min cosine", "texts/s", "one text, ms", "threads"):
        table.add_column(header, justify="right")
    table.add_column("gate")
    for part, speed in speeds.items():
        verdict = gate.figures["verdicts"].get(part) if gate else None
        failed = [c["name"] for c in verdict["checks"] if c["outcome"] == "fail"] if verdict else []
        outcome = "" if verdict is None else ", ".join(failed) or "pass"
        if gate and part == gate.figures["chosen"]:
            outcome += ", served"
        table.add_row(
            part,
            f"{check.figures[part]['min_cosine']:.6f}" if check else "",
            f"{speed['sequences_per_second']:.0f}",
            f"{speed['single_ms']:.2f}",
            str(speed["threads"]),
            outcome,
        )
    return table
