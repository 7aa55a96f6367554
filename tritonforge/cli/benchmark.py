"""``tritonforge benchmark``: latency and throughput of a recipe's engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import UsageError
from tritonforge.recipe import EngineName, Precision, load_recipe

if TYPE_CHECKING:
    from build_engines.benchmark import Benchmark
    from build_engines.benchmark.measure import Length

_ENGINES = ("auto", *get_args(EngineName))
_PRECISIONS = ("auto", *get_args(Precision))


def benchmark(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, for example recipes/minilm.yaml.")],
    build_dir: Annotated[Path, typer.Option(help="Artefacts are in BUILD_DIR/NAME.")] = Path("build"),
    engine: Annotated[
        str | None, typer.Option(metavar="A,B", help="Engines to measure; default: the recipe's.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="A,B", help="Precisions to measure, fp32 beside them.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides any recipe key.")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,N", help="Texts of a batch.")] = "1,8,32",
    lengths: Annotated[
        str, typer.Option(metavar="N,N,mix", help="Tokens of each text; mix: the recipe's length mix.")
    ] = "16,64,128,mix",
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for each engine in each cell; 5 batches at least.")
    ] = 1.0,
    threads: Annotated[
        int | None, typer.Option(min=0, help="Threads of an engine, 0 for all cores; default: the recipe's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where benchmark.html and .json go; default: BUILD_DIR/NAME.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure RECIPE's engines by batch size and length, all in turns on this machine.

    What is not built yet is built, up to the step `compile`; nothing is published.
    """
    chosen = [
        [f"engine={one}", f"precision={other}"]
        for one in _names(engine, "--engine", _ENGINES)
        for other in _names(precision, "--precision", _PRECISIONS)
    ]
    overrides = [[key for key in pair if not key.endswith("=")] for pair in chosen]
    loaded = [load_recipe(recipe, [*(set_ or []), *keys]) for keys in overrides]
    if any(one.task == "generation" for one in loaded):
        raise UsageError(
            "benchmark measures encoders only, and this recipe generates text",
            where=str(recipe),
            mend=f"python -m loadtest.bench_generation {recipe}",
        )
    sizes, tokens = _numbers(batch, "--batch"), _lengths(lengths)
    require("benchmarking", "build", "torch", "transformers", "onnx", "openvino", "jinja2", "matplotlib")
    from build_engines.benchmark import Grid, run_benchmark, served_precisions, write_benchmark
    from build_engines.pipeline import make_context

    if len(loaded) > 1:  # of several, those that go together; a single one is refused with the reason
        loaded = [one for one in loaded if one.precision in served_precisions(one)] or loaded
    contexts = [make_context(one, recipe, Path("model_repository"), build_dir) for one in loaded]
    grid = Grid(sizes, tokens, seconds, threads)
    if json_:
        done = run_benchmark(contexts, grid)
        write_benchmark(done, output or contexts[0].build_dir)
        print_json(done.as_dict())
        return
    with err_console.status("resolve") as status:
        for context in contexts:
            context.progress = status.update
        done = run_benchmark(contexts, grid)
    page = write_benchmark(done, output or contexts[0].build_dir)
    _print(done)
    console.print(f"page: {page}", highlight=False, soft_wrap=True)


def _names(given: str | None, option: str, allowed: tuple[str, ...]) -> list[str]:
    """Split a list of names; one empty name, for the recipe's own, where none is given."""
    names = list(dict.fromkeys(_split(given, option))) if given is not None else [""]
    for name in names:
        if name and name not in allowed:
            raise UsageError(f"{option} {name!r} is not known", mend=f"one or more of {', '.join(allowed)}")
    return names


def _split(given: str, option: str) -> list[str]:
    """Parts between commas."""
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{option} is empty", mend=f"separate several by commas: {option} 1,8")
    return parts


def _numbers(given: str, option: str) -> tuple[int, ...]:
    """Positive whole numbers, in the order given."""
    found = []
    for part in _split(given, option):
        if not part.isdecimal() or int(part) < 1:
            raise UsageError(f"{option} {part!r} is no positive number", mend=f"for example {option} 1,8,32")
        found.append(int(part))
    return tuple(dict.fromkeys(found))


def _lengths(given: str) -> tuple[Length, ...]:
    """Numbers of tokens, or ``mix``."""
    found: list[Length] = []
    for part in _split(given, "--lengths"):
        if part == "mix":
            found.append("mix")
        else:
            found.extend(_numbers(part, "--lengths"))
    return tuple(dict.fromkeys(found))


def _print(done: Benchmark) -> None:
    """One row for each cell and engine."""
    table = Table(
        title=f"benchmark {done.name}, milliseconds of a batch", title_justify="left", box=SIMPLE_HEAD
    )
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    table.add_column("candidate", no_wrap=True)
    for header in ("p50", "p90", "p99", "texts/s", "tokens/s", "to fp32"):
        table.add_column(header, justify="right", no_wrap=True)
    before = None
    for cell in done.cells:
        here = (cell.length, cell.batch)
        if before != here:
            if before is not None:
                table.add_section()
            tokens = "the length mix" if cell.length == "mix" else f"{cell.length} tokens"
            texts = "1 text" if cell.batch == 1 else f"{cell.batch} texts"
            table.add_row(Text(f"{texts} of {tokens}", style="bold"))
        before = here
        table.add_row(
            cell.part,
            *(f"{value:.2f}" for value in (cell.p50_ms, cell.p90_ms, cell.p99_ms)),
            *(f"{value:.0f}" for value in (cell.texts_per_second, cell.tokens_per_second)),
            "" if cell.speedup is None else f"{cell.speedup:.2f}",
        )
    console.print(table)
    threads = ", ".join(dict.fromkeys(str(facts["threads"]) for facts in done.engines.values()))
    console.print(
        f"{done.machine['cpu']}, {done.machine['cores']} cores, {threads} threads an engine", highlight=False
    )
    for note in (*done.notes, *(f"not measured: {part}: {why}" for part, why in done.skipped.items())):
        console.print(note, highlight=False, soft_wrap=True)
