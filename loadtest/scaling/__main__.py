"""Replicas, latency and cost of a load, from service times measured here; docs/scaling.md.

::

    python -m loadtest.scaling measure --model minilm
    python -m loadtest.scaling plan --rates 10,1000,1000000 --p99-ms 100
    python -m loadtest.scaling simulate --trace day --peak 5000 --scaler cpu:0.7 --scaler rate:100
    python -m loadtest.scaling check --model minilm
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from loadtest.corpus import DEFAULT_MIX
from loadtest.sampling import Watch
from loadtest.scaling.check import SHARES, Comparison, compare
from loadtest.scaling.curve import Curve
from loadtest.scaling.events import Node
from loadtest.scaling.fleet import Story, run_fleet
from loadtest.scaling.measure import IN_FLIGHT, measure_own
from loadtest.scaling.plan import RATES, Choices, plan
from loadtest.scaling.pods import Platform
from loadtest.scaling.profile import Profile, read_profile, write_profile
from loadtest.scaling.scalers import FORMS, Bounds, make_scaler, read_behavior
from loadtest.scaling.show import show_check, show_plan, show_profile, show_stories
from loadtest.scaling.traces import find_trace
from tritonforge.errors import TritonForgeError, UsageError

PROFILE = Path("build/scaling/profile.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; see the module's text.

    Returns:
        0; 1 where a check found predictions too far off, or something failed; 2 for wrong usage.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    options.command_line = shlex.join(["python", "-m", "loadtest.scaling", *words])
    console = Console(stderr=True)
    try:
        return int(options.run(options, console))
    except TritonForgeError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2 if isinstance(error, UsageError) else 1


def _measure(options: argparse.Namespace, console: Console) -> int:
    with console.status("measuring") as status:
        profile = measure_own(
            options.repository,
            options.model,
            progress=status.update,
            **_how(options),
            gateway=options.gateway,
        )
    write_profile(profile, options.output)
    if options.json:
        _write(profile.model_dump())
        return 0
    out = _out()
    show_profile(profile, Curve.of(Node.of(profile)), out)
    out.print(f"written to {options.output}", highlight=False, soft_wrap=True)
    return 0


def _check(options: argparse.Namespace, console: Console) -> int:
    found: list[Comparison] = []
    with console.status("measuring") as status:

        def then(profile: Profile, url: str, watch: Watch) -> None:
            shares = options.shares
            found.extend(
                compare(
                    profile, url, watch, shares=shares, seconds=options.check_seconds, progress=status.update
                )
            )

        profile = measure_own(
            options.repository, options.model, progress=status.update, then=then, **_how(options)
        )
    write_profile(profile, options.output)
    worst = max((each.off() for each in found), default=math.inf)
    if options.json:
        _write({"comparisons": [{**asdict(each), "off": each.off()} for each in found], "worst": worst})
    else:
        show_check(found, _out())
    return 0 if worst <= options.within else 1


def _plan(options: argparse.Namespace, console: Console) -> int:
    profile = read_profile(options.profile)
    choices = Choices(
        p99_s=options.p99_ms / 1e3,
        utilisation=options.utilisation,
        zones=options.zones,
        node_price=options.node_price,
        pods_per_node=options.pods_per_node,
        gateway_cores=options.gateway_cores,
        gateway_cpu_s=profile.gateway_cpu_s,
        cell=options.cell,
    )
    curve = Curve.of(Node.of(profile), options.requests)
    needs = [plan(curve, profile, rate, choices) for rate in options.rates]
    if options.json:
        _write([asdict(each) for each in needs])
    else:
        show_plan(needs, choices, _out())
    return 0


def _simulate(options: argparse.Namespace, console: Console) -> int:
    profile = read_profile(options.profile)
    if not 0 < options.peak < math.inf:
        raise UsageError(f"must be a positive number, not {options.peak:g}", where="--peak")
    curve = Curve.of(Node.of(profile), options.requests)
    trace = find_trace(options.trace, options.seconds).scaled(options.peak)
    platform = Platform.of(
        profile,
        pods_per_node=options.pods_per_node,
        node_price=options.node_price,
        node_s=options.node_s,
        pull_s=options.pull_s,
        spare_nodes=options.spare_nodes,
    )
    directions = read_behavior(options.behavior) if options.behavior else ()
    bounds = Bounds(options.least, options.most, *directions)
    best = curve.highest_rate(options.p99_ms / 1e3, 0.7) or curve.capacity
    # A request of what a server uses at most: saturated, it is at 100 percent of it.
    cores = options.cpu_request or max((level.cores for level in profile.levels), default=1.0)
    stories = {}
    for form in options.scaler:
        scaler = make_scaler(form, bounds)
        start = max(scaler.least, min(scaler.most, math.ceil(trace.rates[:60].mean() / best)))
        stories[form] = run_fleet(
            curve,
            trace,
            scaler,
            platform,
            start=options.start if options.start is not None else start,
            objective_s=options.p99_ms / 1e3,
            cores_at=np.array([profile.cores_at(rate) for rate in curve.rates]),
            requested_cores=cores,
            timeout_s=options.timeout_s,
            holds=options.activator,
        )
    if options.json:
        _write({name: _story(story) for name, story in stories.items()})
        return 0
    out = _out()
    out.print(
        f"{trace.name}, {trace.seconds} s, {trace.rates.sum():,.0f} requests; one server takes "
        f"{curve.capacity:.0f} requests/s, {best:.0f} within the objective; a replica is there after "
        f"{platform.cold_start_s():.0f} s, with a new node "
        f"after {platform.cold_start_s() + platform.node_s + platform.pull_s:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    show_stories(stories, options.p99_ms / 1e3, out)
    return 0


def _story(story: Story) -> dict[str, Any]:
    every = max(1, story.ready.size // 600)
    return {
        "requests": story.requests,
        "late_share": story.late_share,
        "failed_share": story.failed_share,
        "p50_s": story.p50_s,
        "p99_s": story.p99_s,
        "node_hours": story.node_hours,
        "cost": story.cost,
        "started": story.started,
        "every_s": every,
        "rates": story.rates[::every].tolist(),
        "ready": story.ready[::every].tolist(),
        "replicas": story.replicas[::every].tolist(),
        "waiting": story.waiting[::every].tolist(),
    }


def _how(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "log": options.log,
        "engine_threads": options.engine_threads,
        "mix": options.mix,
        "in_flight": options.concurrency,
        "seconds": options.seconds,
        "command": options.command_line,
    }


def _out() -> Console:
    """The terminal, or room for all columns where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split(","))


def _whole(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.scaling",
        description=(__doc__ or "").split("::")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help_: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=help_, description=help_, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="for machines")
        return made

    for made in (
        command("measure", _measure, "measure one server's batches and lengths, and write its profile"),
        command("check", _check, "measure, then hold the simulation against open loops on the same server"),
    ):
        made.add_argument("--model", default="minilm", help="an encoder")
        made.add_argument("--repository", type=Path, default=Path("model_repository"), help="where it is")
        made.add_argument("--mix", default=DEFAULT_MIX, help="lengths in tokens, and their weights")
        made.add_argument(
            "--concurrency", type=_whole, default=IN_FLIGHT, help="closed loops; the first is 1"
        )
        made.add_argument("--seconds", type=float, default=3.0, help="of each of them")
        made.add_argument("--engine-threads", type=int, default=None, help="over the configuration's")
        made.add_argument("--output", type=Path, default=PROFILE, help="where the profile goes")
        made.add_argument("--log", type=Path, default=Path("build/scaling/server.log"), help="of all servers")
        if made.get_default("run") is _measure:
            made.add_argument(
                "--gateway", action="store_true", help="also what the gateway takes for a request"
            )
        else:
            made.add_argument(
                "--shares", type=_numbers, default=SHARES, help="of what the closed loops reached"
            )
            made.add_argument("--check-seconds", type=float, default=10.0, help="of each open loop")
            made.add_argument(
                "--within", type=float, default=2.0, help="factor by which a percentile may be off"
            )
    for made in (
        command("plan", _plan, "replicas, nodes, gateways and cost of steady rates"),
        command("simulate", _simulate, "autoscalers on a trace of arrivals, with cold starts"),
    ):
        made.add_argument("--profile", type=Path, default=PROFILE, help="that `measure` wrote")
        made.add_argument("--p99-ms", type=float, default=100.0, help="the objective")
        made.add_argument("--node-price", type=float, default=0.20, help="of a node, an hour; set your own")
        made.add_argument("--pods-per-node", type=int, default=1, help="servers that fit on a node")
        made.add_argument("--requests", type=int, default=20_000, help="simulated at each rate of the curve")
        if made.get_default("run") is _plan:
            made.add_argument("--rates", type=_numbers, default=RATES, help="requests a second")
            made.add_argument("--utilisation", type=float, default=0.7, help="highest share of the capacity")
            made.add_argument("--zones", type=int, default=3, help="one of which may be lost; 1: none may")
            made.add_argument("--gateway-cores", type=float, default=2.0, help="of one gateway")
            made.add_argument("--cell", type=int, default=100, help="servers of a cell at most")
            continue
        made.add_argument(
            "--trace", default="azure_llm_2023_conv", help="constant, step, ramp, day, a name, a file"
        )
        made.add_argument(
            "--peak", type=float, default=1000.0, help="requests a second in the busiest minute"
        )
        made.add_argument("--seconds", type=int, default=3600, help="of a trace that is made up")
        made.add_argument("--scaler", action="append", required=True, help=FORMS)
        made.add_argument("--start", type=int, default=None, help="replicas at the beginning")
        made.add_argument("--least", type=int, default=1, help="replicas at least")
        made.add_argument("--most", type=int, default=10_000, help="replicas at most")
        made.add_argument(
            "--behavior", type=Path, help="YAML of an HPA, or values of the chart; else the default"
        )
        made.add_argument(
            "--cpu-request", type=float, help="cores that `cpu` is a share of; else the most seen"
        )
        made.add_argument("--node-s", type=float, default=90.0, help="until a new node is ready")
        made.add_argument("--pull-s", type=float, default=20.0, help="until it has the image")
        made.add_argument("--spare-nodes", type=int, default=0, help="kept ready beyond those in use")
        made.add_argument("--timeout-s", type=float, default=30.0, help="a caller waits so long")
        made.add_argument("--activator", action="store_true", help="requests wait while there is no replica")
    return parser


if __name__ == "__main__":
    sys.exit(main())
