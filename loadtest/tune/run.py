"""A whole tuning: find what is published, search, check on fresh servers, write the better recipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest import corpus
from loadtest.perf_analyzer.install import install
from loadtest.served import this_machine
from loadtest.tune.bench import Bench
from loadtest.tune.goal import Goal, Objective
from loadtest.tune.load import Load
from loadtest.tune.published import PublishedModel, find_model_of, remove_leftovers
from loadtest.tune.recipe_file import write_tuned
from loadtest.tune.records import Tuning
from loadtest.tune.sampler import Method
from loadtest.tune.search import Search
from loadtest.tune.show import row, write_page
from loadtest.tune.space import Parameter, Value, changes, narrowed, search_space
from loadtest.tune.validate import compare
from tritonforge.errors import UsageError
from tritonforge.recipe import Recipe
from tritonforge.server.options import ENGINE_THREADS_VARIABLE
from tritonforge.server.resources import cpu_budget, memory_limit

_ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Request:
    """What is asked for; the options of ``tritonforge tune``.

    Attributes:
        path: The recipe's file.
        recipe: As loaded, with ``overrides``.
        overrides: Keys that were set over the file's; they are part of what is written.
        repository: Where it is published.
        build_root: Trials go to ``tune/NAME`` in it.
        objective: See :class:`~loadtest.tune.goal.Goal`.
        slo_p99_ms: The SLO.
        levels: Requests in flight.
        trials: At most.
        timeout: Of the search, in seconds.
        method: ``tpe`` or ``grid``.
        seed: Of sampler and texts.
        seconds: At each level; None: 3, or 10 of generators.
        rounds: Pairs of fresh runs.
        keys: To search alone, each with its values or none; empty: all.
        client_batch: Texts of the largest request of clients.
        items: Texts in a request, or tokens of an answer; None: 1, or 32.
        length_mix: Of the texts; None: the recipe's, or that of prompts.
        output: Where the better recipe goes.
        force: Write what shows no gain.
        command: That repeats it.
    """

    path: Path
    recipe: Recipe
    overrides: Mapping[str, Any]
    repository: Path
    build_root: Path
    objective: Objective
    slo_p99_ms: float | None
    levels: tuple[int, ...]
    trials: int
    timeout: float
    method: Method
    seed: int
    seconds: float | None
    rounds: int
    keys: tuple[tuple[str, tuple[Value, ...]], ...]
    client_batch: int | None
    items: int | None
    length_mix: str | None
    output: Path
    force: bool
    command: str


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        tuning: As saved.
        lines: For the user.
        interrupted: By Ctrl-C.
    """

    tuning: Tuning
    lines: list[str] = field(default_factory=list)
    interrupted: bool = False

    def end(self, result: str) -> None:
        """Note what came of it."""
        self.tuning.result = result
        self.lines.append(result)


def run(
    request: Request,
    progress: Callable[[str], None] = lambda message: None,
    told: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Tune a recipe.

    Args:
        request: What is asked for.
        progress: Called with what goes on.
        told: Called with a line for each trial that ended.

    Raises:
        TritonForgeError: The recipe is not built, or its own settings cannot be served or loaded.
    """
    if os.environ.get(ENGINE_THREADS_VARIABLE):
        raise UsageError(
            "it overrides the threads of every trial", where=ENGINE_THREADS_VARIABLE, mend="unset it"
        )
    model = find_model_of(request.recipe, request.path, request.repository, request.build_root)
    space = _space(request, model)
    work = request.build_root / "tune" / model.recipe.name
    work.mkdir(parents=True, exist_ok=True)
    remove_leftovers(work)
    progress("perf_analyzer is installed")
    bench = _bench(request, model, work, install())
    tuning = _tuning(request, model, space, bench)
    outcome = Outcome(tuning)
    search = Search(
        bench=bench,
        space=space,
        tuning=tuning,
        trials=request.trials,
        timeout=request.timeout,
        method=request.method,
        seed=request.seed,
        progress=progress,
        done=lambda trial: told(
            f"{trial.number:>3}  {row(trial, tuning.trials[0].settings, bench.goal.unit)}"
        ),
    )
    try:
        winner = search.run()
        if winner is not None:
            tuning.winner = changes(model.recipe, winner, space)
            tuning.verdict = compare(bench, winner, request.rounds, request.seed, progress)
            _write(request, outcome, model, winner, space)
        else:
            outcome.end(_nothing(tuning))
    except KeyboardInterrupt:
        outcome.interrupted = True
        tuning.ended = "interrupted"
        outcome.end("interrupted: what was measured is kept, and no recipe is written")
    finally:
        tuning.save(work)
        page = write_page(tuning, work)
    outcome.lines.append(f"report: {page}, trials: {work / 'trials.json'}")
    return outcome


def _space(request: Request, model: PublishedModel) -> tuple[Parameter, ...]:
    space = search_space(
        model.recipe,
        engine=model.engine,
        cores=cpu_budget().threads,
        most_instances=memory_limit() // 2 // max(1, model.size_bytes),
        client_batch=request.client_batch,
        slo_ms=request.slo_p99_ms,
    )
    chosen = narrowed(model.recipe, space, request.keys)
    if all(len(parameter.values) == 1 for parameter in chosen):
        raise UsageError(
            "there is nothing to search: each key has one value", where="--search", mend="give KEY=V,V"
        )
    return chosen


def _bench(request: Request, model: PublishedModel, work: Path, tool: Path) -> Bench:
    generates = model.task == "generation"
    mix = request.length_mix
    if mix is None and not generates:
        mix = ",".join(f"{share.tokens}:{share.weight:g}" for share in model.recipe.length_mix)
    if mix is not None:
        corpus.parse_mix(mix)
    load = Load(
        tool=tool,
        model=model.recipe.name,
        generates=generates,
        length_mix=mix,
        items=request.items or (_ANSWER_TOKENS if generates else 1),
    )
    goal = Goal(request.objective, request.levels, request.slo_p99_ms)
    return Bench(model, goal, load, work, request.seconds or (10.0 if generates else 3.0))


def _tuning(request: Request, model: PublishedModel, space: tuple[Parameter, ...], bench: Bench) -> Tuning:
    return Tuning(
        recipe=str(request.path),
        model=model.recipe.name,
        engine=model.engine,
        precision=model.precision,
        command=request.command,
        started=time.time(),
        goal={
            "objective": request.objective,
            "levels": list(request.levels),
            "slo_p99_ms": request.slo_p99_ms,
        },
        load={
            "items": bench.load.items,
            "length_mix": bench.load.length_mix or corpus.PROMPT_MIX,
            "corpus": corpus.source(),
            "seconds": bench.seconds,
        },
        method=request.method,
        seed=request.seed,
        space={parameter.key: list(parameter.values) for parameter in space},
        machine=this_machine().model_dump(mode="json"),
    )


def _nothing(tuning: Tuning) -> str:
    """Why there is no winner."""
    if all(trial.violation for trial in tuning.trials if trial.status == "measured"):
        nearest = min(trial.violation for trial in tuning.trials if trial.status == "measured")
        return (
            f"no setting met the SLO of {tuning.goal['slo_p99_ms']:g} ms: the nearest missed it by "
            f"{nearest:.0%} with {tuning.goal['levels'][0]} in flight. The recipe is left alone"
        )
    return "nothing was better than the recipe's own settings, which are left alone"


def _write(
    request: Request,
    outcome: Outcome,
    model: PublishedModel,
    winner: Recipe,
    space: tuple[Parameter, ...],
) -> None:
    """Write the better recipe, if it is one."""
    verdict = outcome.tuning.verdict
    assert verdict is not None
    if not verdict.better and not request.force:
        outcome.end("the recipe is left alone (--force writes the winner all the same)")
        return
    edits: dict[str, Any] = dict(request.overrides)
    # Settings are good for the engine that they were found with: `auto` might choose another.
    pinned = [key for key in ("engine", "precision") if getattr(request.recipe, key) == "auto"]
    edits |= {key: getattr(winner, key) for key in pinned}
    edits |= changes(model.recipe, winner, space)
    kept = write_tuned(request.path, request.output, winner, edits)
    outcome.tuning.written = str(request.output)
    if pinned:
        outcome.lines.append(f"{' and '.join(pinned)} are set to what was measured, in place of auto")
    if not kept:
        outcome.lines.append("the recipe shares parts by YAML aliases: it is written anew, without comments")
    outcome.end(f"better recipe: {request.output}; build and serve it: tritonforge build {request.output}")
