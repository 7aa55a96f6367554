"""``tritonforge compare``: the same load on ours and on peers, and the page that it makes."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import TritonForgeError, UsageError

if TYPE_CHECKING:
    from loadtest.peers.records import Comparison
    from loadtest.peers.settings import Setup

app = typer.Typer(help="The same load on ours and on peers.", no_args_is_help=False)

_RECIPE = Path("recipes/minilm.yaml")
_PAGE = Path("docs/benchmarks.md")
RecipeOption = Annotated[Path, typer.Option(help="Recipe of the embedding model that all serve.")]
PeersOption = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Peers, by name or how it begins; none: ours alone. Default: all."),
]
FolderOption = Annotated[Path, typer.Option(help="Where environments of peers are.")]
RootOption = Annotated[Path, typer.Option(help="Where results, logs and our own models are.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_PEERS, _ROOT = Path("build/peers"), Path("build/compare")


@app.callback(invoke_without_command=True)
def compare(
    context: typer.Context,
    recipe: RecipeOption = _RECIPE,
    peers: PeersOption = None,
    connections: Annotated[str, typer.Option(metavar="N,N", help="Requests in flight.")] = "1,16,64",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each row.")] = 3,
    seconds: Annotated[int, typer.Option(min=1, help="Length of a turn.")] = 3,
    mix: Annotated[
        str | None, typer.Option(metavar="N:W,…", help="Lengths of texts in tokens, and weights.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each system's engine; default: all cores.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One round of 2 s, to see that all works.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="The page; default: docs/benchmarks.md, none where --quick is.")
    ] = None,
    peers_dir: FolderOption = _PEERS,
    root: RootOption = _ROOT,
    as_json: JsonOption = False,
) -> None:
    """Measure ours and the peers that `tritonforge compare install` brought, one at a time, in turns.

    Writes the page, and the figures to ROOT/comparison.json. Nothing else should run meanwhile.
    """
    if context.invoked_subcommand is not None:
        return
    _require()
    from loadtest.corpus import LengthMix
    from loadtest.peers.ours import system, variants
    from loadtest.peers.registry import find_peers
    from loadtest.peers.runner import SHORT_MIX, Plan
    from loadtest.peers.runner import compare as run

    wanted = find_peers(_names(peers))
    lengths = mix or SHORT_MIX
    try:
        LengthMix.parse(lengths)
    except ValueError as error:
        raise UsageError(str(error), where="--mix", mend=f"for example --mix {SHORT_MIX}") from error
    counts = _counts(connections)
    if quick:
        rounds, seconds = 1, 2
    plan = Plan(counts, rounds, seconds, lengths, command=_command())
    setup = _setup(threads, peers_dir, root)
    name, model = _model(recipe)
    try:
        ours = [system(variant, setup.repository) for variant in variants(name)]
    except TritonForgeError as error:
        raise UsageError(
            f"our own models are not built: {error.what}",
            where=str(setup.repository),
            mend="tritonforge compare install",
        ) from error
    if os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2:
        err_console.print("other work runs on this machine: the figures will be worth little", style="yellow")
    systems = sorted([*ours, *wanted], key=lambda one: one.precision)  # stable: ours before theirs
    with err_console.status("begin") as status:
        result = run(systems, model, plan, setup, status.update)
    _keep(result, setup)
    page = output or (None if quick else _PAGE)
    if page is not None:
        from loadtest.peers.page import write_page

        write_page(result, page)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    _print(result)
    if page is not None:
        console.print(f"page: {page}", highlight=False, soft_wrap=True)


@app.command()
def install(
    recipe: RecipeOption = _RECIPE,
    peers: PeersOption = None,
    again: Annotated[bool, typer.Option("--again", help="Try once more what failed before.")] = False,
    peers_dir: FolderOption = _PEERS,
    root: RootOption = _ROOT,
    as_json: JsonOption = False,
) -> None:
    """Make the peers' environments, the forms of the model that they load, and our own engines.

    What is there stays. A peer that cannot be installed is named with the reason, and is no error.
    """
    _require()
    require("building our models", "build", "torch", "transformers", "onnx", "openvino")
    from loadtest.peers.environments import install as install_one
    from loadtest.peers.environments import prepare_models, unique
    from loadtest.peers.ours import build_variants
    from loadtest.peers.registry import find_peers

    wanted = find_peers(_names(peers))
    setup = _setup(None, peers_dir, root)
    _, model = _model(recipe)
    states: dict[str, str] = {}
    with err_console.status("begin") as status:
        for environment in unique(peer.environment for peer in wanted):
            status.update(f"{environment.name}: {', '.join(environment.requirements)}")
            states[environment.name] = install_one(environment, setup, again=again).reason or "ready"
        if wanted:
            states["ONNX forms of the model"] = prepare_models(model, setup, status.update) or "ready"
        engines = build_variants(recipe, setup, status.update)
    states |= {f"ours, {name}": f"ready, {engine}" for name, engine in engines.items()}
    if as_json:
        print_json(states)
        return
    for name, found in states.items():
        console.print(f"{name}: {found}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def page(
    output: Annotated[Path, typer.Option(help="The page.")] = _PAGE,
    root: RootOption = _ROOT,
) -> None:
    """Write the page again from ROOT/comparison.json, without measuring."""
    from loadtest.peers.page import write_page
    from loadtest.peers.records import read_comparison

    write_page(read_comparison(root / "comparison.json"), output)
    console.print(f"page: {output}", highlight=False, soft_wrap=True)


def _require() -> None:
    require("comparing", "gateway", "fastapi", "uvicorn", "joserfc")
    require("comparing", "loadtest", "tritonclient")


def _command() -> str:
    return shlex.join(["tritonforge", *sys.argv[1:]])


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _counts(given: str) -> tuple[int, ...]:
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(
            f"--connections {given!r} is no list of numbers", mend="for example --connections 1,16,64"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _setup(threads: int | None, peers: Path, root: Path) -> Setup:
    from loadtest.peers.settings import Setup

    return Setup(threads or len(os.sched_getaffinity(0)), peers, root)


def _model(recipe: Path) -> tuple[str, Path]:
    """Name of the recipe, and the folder of its model."""
    from build_engines.model_files import find_model
    from build_engines.spec import settle_spec
    from tritonforge.recipe import load_recipe

    loaded = load_recipe(recipe)
    files = None if loaded.task == "generation" else find_model(loaded.model)
    task = loaded.task if files is None else settle_spec(loaded, files).task
    if files is None or task != "embedding":
        raise UsageError(
            f"peers are compared on embeddings, and this recipe's task is {task}",
            where=str(recipe),
            mend="give the recipe of an embedding model",
        )
    return loaded.name, files.folder


def _keep(result: Comparison, setup: Setup) -> None:
    setup.root.mkdir(parents=True, exist_ok=True)
    temporary = setup.root / ".comparison.json"
    temporary.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    temporary.replace(setup.root / "comparison.json")


def _print(result: Comparison) -> None:
    """Requests a second, accuracy, and what is behind."""
    for precision, heading in (("fp32", "float32"), ("int8", "INT8")):
        rows = [row for row in result.rows if row.precision == precision]
        if not rows:
            continue
        table = Table(title=f"{heading}, requests a second", title_justify="left")
        table.add_column("")
        for count in result.connections:
            table.add_column(f"at {count}", justify="right")
        table.add_column("least cosine", justify="right")
        table.add_column("failed", justify="right")
        for row in rows:
            rates = [row.rate(count) for count in result.connections]
            table.add_row(
                row.title,
                *("" if rate is None else f"{rate.median:.0f}" for rate in rates),
                "" if row.accuracy is None else f"{row.accuracy.least:.4f}",
                str(row.errors()),
                style="bold" if row.ours else None,
            )
        console.print(table)
    for skipped in result.skipped:
        console.print(f"not measured: {skipped.title}: {skipped.reason}", markup=False, soft_wrap=True)
