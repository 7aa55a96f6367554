"""``tritonforge tune``: better serving settings for a recipe, found and checked with the real server."""

from __future__ import annotations

import difflib
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import UsageError
from tritonforge.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from loadtest.tune.run import Outcome, Request


def tune(
    recipe: Annotated[Path, typer.Argument(help="Recipe file, for example recipes/minilm.yaml.")],
    repository: Annotated[Path, typer.Option(help="Model repository that it was built into.")] = Path(
        "model_repository"
    ),
    build_dir: Annotated[
        Path, typer.Option(help="Artefacts are in BUILD_DIR/NAME; trials go to BUILD_DIR/tune/NAME.")
    ] = Path("build"),
    slo_p99_ms: Annotated[
        float | None,
        typer.Option(min=0.001, help="What p99 must not exceed; of generators, of the time to first token."),
    ] = None,
    objective: Annotated[
        Literal["throughput", "latency"],
        typer.Option(help="latency: the least median with one request in flight."),
    ] = "throughput",
    concurrency: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Requests in flight; default: 32, with an SLO 1,4,16,64."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try at most.")] = 30,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to search at most.")] = 900.0,
    method: Annotated[
        Literal["tpe", "grid"],
        typer.Option(help="tpe: Optuna's sampler; grid: all, in random order."),
    ] = "tpe",
    seed: Annotated[int, typer.Option(help="Of the sampler and the texts.")] = 0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="To measure at each concurrency; default: 3, of generators 10."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=2, help="Pairs of fresh runs that default and winner are compared by.")
    ] = 6,
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY[=V,V]", help="Search only these keys, with these values; may be repeated."),
    ] = None,
    client_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Texts of the largest request of clients; default: the recipe's max_batch_size."
        ),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(min=1, help="Texts in a request (default 1); of generators, tokens of an answer (32)."),
    ] = None,
    length_mix: Annotated[
        str | None, typer.Option(metavar="TOKENS:WEIGHT,…", help="Lengths of texts; default: the recipe's.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides any recipe key.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the better recipe goes; default: RECIPE.tuned.yaml.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Change RECIPE itself.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write the winner, gain or not.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Build the recipe first, if need be.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the search as JSON.")] = False,
) -> None:
    """Search better serving settings for RECIPE under real load, and check the winner on fresh servers.

    Only what cannot change an answer is searched: batching, instances, threads, token budget. The better
    recipe is written if the fresh runs show a gain beyond noise, else nothing is.
    """
    if in_place and output is not None:
        raise UsageError("--in-place and --output exclude each other", mend="give one of them")
    loaded = load_recipe(recipe, set_ or [])
    require("tuning", "loadtest,build", "optuna", "scipy", "tritonclient", "tokenizers", "safetensors")
    from loadtest.tune.run import Request, run

    request = Request(
        path=recipe,
        recipe=loaded,
        overrides=dict(_override(each) for each in set_ or []),
        repository=repository,
        build_root=build_dir,
        objective=objective,
        slo_p99_ms=slo_p99_ms,
        levels=_levels(concurrency, objective, slo_p99_ms),
        trials=trials,
        timeout=timeout,
        method=method,
        seed=seed,
        seconds=seconds,
        rounds=rounds,
        keys=tuple(_key(each) for each in search or []),
        client_batch=client_batch,
        items=items,
        length_mix=length_mix,
        output=recipe if in_place else output or recipe.with_suffix(".tuned.yaml"),
        force=force,
        command=shlex.join(["tritonforge", *sys.argv[1:]]),
    )
    if build:
        _build(loaded, recipe, repository, build_dir)
    # A stop keeps what was found, however it comes.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = run(request) if json_ else _run_shown(request)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if json_:
        print_json(outcome.tuning.model_dump(mode="json"))
    raise typer.Exit(1 if outcome.interrupted else 0)


def _run_shown(request: Request) -> Outcome:
    """Run with a line for each trial, then print what came of it."""
    from loadtest.tune.run import run
    from loadtest.tune.show import summary

    before = request.path.read_text(encoding="utf-8")
    with err_console.status("resolve") as status:
        outcome = run(
            request,
            progress=status.update,
            told=lambda line: err_console.print(line, markup=False, highlight=False),
        )
    if outcome.tuning.trials:
        console.print(summary(outcome.tuning))
    for line in outcome.lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if outcome.tuning.written is not None:
        after = Path(outcome.tuning.written).read_text(encoding="utf-8")
        names = (str(request.path), outcome.tuning.written)
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="", n=1):
            style = {"+": "green", "-": "red"}.get(line[0], "")
            console.print(Text(line, style), soft_wrap=True)
    return outcome


def _build(loaded: Recipe, path: Path, repository: Path, build_dir: Path) -> None:
    """Build and publish; what is up to date already takes seconds."""
    from build_engines.pipeline import any_context
    from build_engines.pipeline import build as run_build

    context = any_context(loaded, path, repository, build_dir)
    with err_console.status("resolve") as status:
        context.progress = status.update
        run_build(context)


def _levels(given: str | None, objective: str, slo: float | None) -> tuple[int, ...]:
    """Requests in flight, in rising order."""
    if objective == "latency":
        if given is not None and given.strip() != "1":
            raise UsageError(
                "--objective latency measures one request in flight", mend="leave --concurrency out"
            )
        return (1,)
    if given is None:
        return (32,) if slo is None else (1, 4, 16, 64)
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"--concurrency {given!r} is not a list of positive numbers",
            mend="for example --concurrency 1,16",
        )
    return tuple(sorted({int(part) for part in parts}))


def _override(given: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``, which loading the recipe has checked."""
    key, _, raw = given.partition("=")
    return key.strip(), yaml.safe_load(raw)


def _key(given: str) -> tuple[str, tuple[Any, ...]]:
    """Read ``KEY`` or ``KEY=V,V``; a value that is a list is written in brackets."""
    key, equals, raw = given.partition("=")
    try:
        values = yaml.safe_load(f"[{raw}]") if equals else []
    except yaml.YAMLError as error:
        raise UsageError(
            f"--search {given!r}: the values are not YAML: {error}",
            mend="for example --search threads.engine=1,2",
        ) from error
    flat = tuple(tuple(value) if isinstance(value, list) else value for value in values)
    if not key.strip() or (equals and not flat):
        raise UsageError(f"--search {given!r} is not KEY=V,V", mend="for example --search threads.engine=1,2")
    return key.strip(), flat
