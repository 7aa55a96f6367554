"""Runs a comparison: the systems one at a time, in rounds whose order is turned around."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.corpus import LengthMix, make_texts, source
from loadtest.errors import LoadTestError
from loadtest.peers.answers import ask, judge, reference
from loadtest.peers.environments import state
from loadtest.peers.ours import own_versions
from loadtest.peers.records import Accuracy, Comparison, Row, Skipped, Turn
from loadtest.peers.serving import Running, serve
from loadtest.peers.settings import Setup
from loadtest.peers.system import System, Way
from loadtest.peers.wrk import find_wrk, run_wrk, write_requests, wrk_version
from loadtest.served import this_machine

SHORT_MIX = "6:1,16:1,28:1,40:1,52:1"
#: Seconds of load that do not count, before each turn.
WARM_S = 1
_TEXTS = 2000


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        connections: Requests in flight, each measured by itself.
        rounds: Turns of each row at each number of connections.
        seconds: Of a turn.
        mix: Lengths of the texts.
        judged: Texts whose answers are judged.
        command: That makes the comparison again, for the page.
    """

    connections: tuple[int, ...] = (1, 16, 64)
    rounds: int = 3
    seconds: float = 3
    mix: str = SHORT_MIX
    judged: int = 200
    command: str = "tritonforge compare"


@dataclass
class _Tally:
    """What is known of one row so far."""

    system: System
    way: Way
    turns: list[Turn] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


def order(systems: Sequence[System], number: int) -> list[System]:
    """The systems as round ``number``, from 1, takes them: A B C, then C B A.

    A machine that grows slower is then not slower for the same systems.
    """
    return list(systems) if number % 2 else list(reversed(systems))


def compare(
    systems: Sequence[System], model: Path, plan: Plan, setup: Setup, progress: Callable[[str], None]
) -> Comparison:
    """Measure systems.

    Each is started, warmed up, measured with each number of connections, and ended, before the next starts.
    A system that fails is left out from then on, and the comparison says why.

    Args:
        systems: What to measure, peers that are not installed too.
        model: Folder of the model, for the reference.
        plan: How.
        setup: Where.
        progress: Is told what is done.

    Raises:
        LoadTestError: wrk is missing, or nothing can be measured.
    """
    wrk = find_wrk()
    started, load_before = time.time(), os.getloadavg()[0]
    texts = list(dict.fromkeys(make_texts(_TEXTS, LengthMix.parse(plan.mix), seed=1)))
    skipped = {system.name: reason for system in systems if (reason := _why_not(system, setup))}
    left = [system for system in systems if system.name not in skipped]
    if not left:
        raise LoadTestError("nothing to compare is installed", mend="tritonforge compare install")
    progress("the reference")
    wanted = reference(model, texts[: plan.judged], setup)
    tallies = {way.name: _Tally(system, way) for system in left for way in system.ways}
    for number in range(1, plan.rounds + 1):
        for system in order([one for one in left if one.name not in skipped], number):
            progress(f"round {number} of {plan.rounds}: {system.title}")
            try:
                _measure(system, number, tallies, wrk, texts, wanted, plan, setup)
            except LoadTestError as error:
                skipped[system.name] = f"{error.what} (round {number})"
    rows = [_row(tally, setup) for tally in tallies.values() if tally.turns]
    if not rows:
        raise LoadTestError(f"nothing could be measured: {'; '.join(skipped.values())}")
    return Comparison(
        started=started,
        took_s=time.time() - started,
        machine=this_machine(),
        threads=setup.threads,
        client=f"wrk {wrk_version(wrk)}",
        model=model.parent.name if model.name == "model" else model.name,
        mix=plan.mix,
        corpus=source(),
        texts=len(texts),
        seconds=plan.seconds,
        rounds=plan.rounds,
        connections=plan.connections,
        order=tuple(system.name for system in left),
        load_before=load_before,
        rows=tuple(rows),
        skipped=tuple(
            Skipped(name=system.name, title=system.title, reason=skipped[system.name])
            for system in systems
            if system.name in skipped
        ),
        command=plan.command,
    )


def _why_not(system: System, setup: Setup) -> str:
    """Why a peer cannot be started; empty if it can."""
    if system.environment is None:
        return ""
    found = state(system.environment, setup)
    if not found.ready:
        return found.reason
    if not (setup.models / system.model).is_dir():
        return f"the model's form {system.model} is not made; tritonforge compare install does it"
    return ""


def _measure(
    system: System,
    number: int,
    tallies: dict[str, _Tally],
    wrk: str,
    texts: list[str],
    wanted: NDArray[np.float32] | None,
    plan: Plan,
    setup: Setup,
) -> None:
    """One system's part of a round."""
    begun = time.monotonic()
    with serve(system, setup) as running:
        start_s = time.monotonic() - begun
        folders = {way.name: setup.work(system) / way.name for way in system.ways}
        for way in system.ways:
            write_requests(folders[way.name], way, texts)
            about = tallies[way.name].about
            if not about:  # in the first round
                about |= {"start_s": start_s, **_look(running, way, texts[: plan.judged], wanted)}
        first = number * 997 % len(texts)  # each round begins elsewhere, all systems at the same text
        for connections in plan.connections:
            for way in system.ways:
                url, folder = running.url(way), folders[way.name]
                run_wrk(wrk, url, folder, connections=connections, seconds=WARM_S)
                before = running.cpu_seconds()
                load = run_wrk(wrk, url, folder, connections=connections, seconds=plan.seconds, first=first)
                used = running.cpu_seconds() - before
                good = load.requests - load.errors.get("status", 0)
                tallies[way.name].turns.append(
                    Turn(
                        round=number,
                        connections=connections,
                        requests=good,
                        seconds=load.seconds,
                        rate=good / load.seconds,
                        p50_ms=load.p50_ms,
                        p99_ms=load.p99_ms,
                        cpu_ms=used / max(1, load.requests) * 1e3,
                        errors=load.errors,
                    )
                )
        for way in system.ways:
            about = tallies[way.name].about
            if "idle_cpus" not in about:
                about["idle_cpus"] = running.idle_cpus() if way is system.ways[0] else None


def _look(running: Running, way: Way, texts: list[str], wanted: NDArray[np.float32] | None) -> dict[str, Any]:
    """What answers are like."""
    vectors, size = ask(running.url(way), way, texts)
    accuracy: Accuracy | None = None if wanted is None else judge(vectors, wanted, way.title)
    return {"accuracy": accuracy, "answer_bytes": size}


def _row(tally: _Tally, setup: Setup) -> Row:
    system, way = tally.system, tally.way
    versions = state(system.environment, setup).versions if system.environment else own_versions(system)
    return Row(
        name=way.name,
        title=way.title,
        system=system.name,
        ours=system.ours,
        precision=system.precision,
        engine=system.engine,
        versions=versions,
        batching=system.batching,
        answer=way.answer,
        turns=tuple(tally.turns),
        **tally.about,
    )
