"""What does Triton cost a generation model? The server against its engine alone, in one run on one machine.

::

    tritonforge build recipes/smollm2.yaml
    python -m loadtest.bench_generation recipes/smollm2.yaml --streams 1 4 16 32

The sides take turns, never two at once, and the order is turned around in every round: the engine alone in
one process (OpenVINO GenAI's ``ContinuousBatchingPipeline``, without turning tokens back into text), the
server over gRPC and over SSE with a client outside, and transformers' ``generate`` in float32. All get the
same prompts, new ones in each round, of mixed lengths; each answer has exactly ``--tokens`` tokens; engine,
server and torch have the same thread budget. A stream sends its next request when its last is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest import generation_alone
from loadtest.corpus import LengthMix, make_texts, source
from loadtest.cpu_time import cpu_seconds
from loadtest.errors import LoadTestError
from loadtest.generation_client import Turn, ask_over_grpc, ask_over_sse
from tritonforge.console import err_console
from tritonforge.errors import TritonForgeError, UsageError
from tritonforge.recipe import load_recipe
from tritonforge.server import ServerOptions, TritonServer

DEFAULT_MIX = "8:0.3,24:0.3,64:0.2,192:0.1,384:0.1"
ALONE = "engine"
SERVED = ("grpc", "sse")
TORCH = "transformers"
_NAMES = {
    ALONE: "engine alone",
    "grpc": "server, gRPC",
    "sse": "server, SSE",
    TORCH: "transformers' generate",
}
_BEGIN = {ALONE: "One", "grpc": "Two", "sse": "Three", TORCH: "Four"}
_REQUESTS = 8
"""At least so many requests make a round, and at least two of each stream."""

Run = Callable[[Sequence[str], int, int], Turn]


@dataclass(frozen=True)
class Side:
    """One way to have the prompts answered.

    Attributes:
        run: Answers a round's prompts.
        cpu: CPU seconds that the server has taken so far; 0 where there is none.
    """

    run: Run
    cpu: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True)
class Round:
    """One turn of one side.

    Attributes:
        turn: What was measured.
        server_cpu_s: CPU seconds of tritonserver and its stub meanwhile.
    """

    turn: Turn
    server_cpu_s: float

    @property
    def tokens_per_second(self) -> float:
        """Throughput."""
        return self.turn.tokens / self.turn.seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's text."""
    options = _parse(arguments)
    try:
        result = _measure(options)
    except TritonForgeError as error:
        err_console.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    _print(result)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_generation", description=(__doc__ or "").split("::")[0]
    )
    parser.add_argument("recipe", type=Path, help="a recipe with task generation that was built")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 32], help="requests in flight")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, in turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each side's engine")
    parser.add_argument("--sides", nargs="+", choices=list(_NAMES), default=[ALONE, *SERVED, TORCH])
    parser.add_argument("--torch-rounds", type=int, default=1, help="of transformers, which is slow")
    parser.add_argument(
        "--torch-streams", type=int, nargs="+", default=[16, 32], help="where transformers is measured"
    )
    parser.add_argument("--mix", default=DEFAULT_MIX, help="lengths of the prompts in tokens, and weights")
    parser.add_argument("--log", default="build/bench_generation.log", help="tritonserver's log")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start what is asked for, and let the sides take turns."""
    recipe = load_recipe(options.recipe)
    if recipe.task != "generation":
        raise LoadTestError(
            f"the task is {recipe.task}",
            where=str(options.recipe),
            mend="give a recipe with task generation; loadtest.bench_ensemble measures the others",
        )
    try:
        mix = LengthMix.parse(options.mix)
    except ValueError as error:
        raise UsageError(str(error), where="--mix") from error
    with ExitStack() as stack:
        server = stack.enter_context(_server(options, recipe.name))
        config = _get_json(f"{server.http_url}/v2/models/{recipe.name}/config")
        sides = {
            name: stack.enter_context(_open_side(name, options, server, recipe, config))
            for name in options.sides
        }
        for side in sides.values():
            side.run(make_texts(2, mix, seed=1), 1, 4)
        points = [_take_turns(sides, streams, mix, options) for streams in options.streams]
    return {
        "model": recipe.name,
        "settings": {key: value["string_value"] for key, value in config["parameters"].items()},
        "threads": options.threads,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "tokens": options.tokens,
        "mix": options.mix,
        "corpus": source(),
        "points": points,
    }


@contextmanager
def _server(options: argparse.Namespace, model: str) -> Iterator[TritonServer]:
    """The real server, with this model alone."""
    log_path = Path(options.log)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    server_options = ServerOptions(
        http_port=0, grpc_port=0, metrics_port=0, engine_threads=options.threads, models=(model,)
    )
    with log_path.open("wb") as log, TritonServer(options.repository, server_options, log_sink=log) as server:
        yield server


@contextmanager
def _open_side(
    name: str, options: argparse.Namespace, server: TritonServer, recipe: Any, config: dict[str, Any]
) -> Iterator[Side]:
    """Start the process of one side."""
    # gRPC does not survive a fork, and neither do the engines' threads.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:

        def through(function: Callable[..., Turn], *before: str) -> Run:
            return lambda *arguments: pool.submit(function, *before, *arguments).result()

        if name == ALONE:
            folder = _newest_version(options.repository / recipe.name)
            pool.submit(generation_alone.load_engine, folder, config, options.threads).result()
            yield Side(through(generation_alone.run_engine))
        elif name == TORCH:
            pool.submit(generation_alone.load_transformers, recipe.model, options.threads).result()
            yield Side(through(generation_alone.run_transformers))
        else:
            address = server.grpc_url if name == "grpc" else server.http_address
            ask = ask_over_grpc if name == "grpc" else ask_over_sse
            yield Side(through(ask, address, recipe.name), lambda: cpu_seconds(server.pid))


def _take_turns(
    sides: dict[str, Side], streams: int, mix: LengthMix, options: argparse.Namespace
) -> dict[str, Any]:
    """All rounds with so many streams."""
    requests = max(_REQUESTS, 2 * streams)
    rounds: dict[str, list[Round]] = {name: [] for name in sides}
    for number in range(options.rounds):
        prompts = make_texts(requests, mix, seed=streams * 1000 + number)
        for name in list(sides)[:: -1 if number % 2 else 1]:
            if name == TORCH and (streams not in options.torch_streams or number >= options.torch_rounds):
                continue
            before = sides[name].cpu()
            # Another beginning for each side: else the prefix cache knew what gRPC asked when SSE asks.
            turn = sides[name].run([f"{_BEGIN[name]} {text}" for text in prompts], streams, options.tokens)
            _check_equal_work(name, turn, requests * options.tokens)
            rounds[name].append(Round(turn, sides[name].cpu() - before))
    measured = {name: _summary(of, options) for name, of in rounds.items() if of}
    for name in SERVED:
        if name in measured and ALONE in measured:
            ratios = [
                served.tokens_per_second / alone.tokens_per_second
                for served, alone in zip(rounds[name], rounds[ALONE], strict=True)
            ]
            medians = (measured[side]["tokens_per_second"] for side in (name, ALONE))
            measured[name]["ratio_of_medians"] = next(medians) / next(medians)
            measured[name]["ratios"] = [round(ratio, 3) for ratio in ratios]
    return {"streams": streams, "requests": requests, "sides": measured}


def _check_equal_work(name: str, turn: Turn, expected: int) -> None:
    if turn.tokens != expected:
        raise LoadTestError(
            f"{_NAMES[name]} made {turn.tokens} tokens, {expected} were asked for; the work is not equal",
            mend="choose --mix and --tokens so that prompt and answer fit the model's max_length",
        )


def _summary(rounds: Sequence[Round], options: argparse.Namespace) -> dict[str, Any]:
    """Medians over rounds; percentiles over all requests."""
    cores = len(os.sched_getaffinity(0))
    first = [value for each in rounds for value in each.turn.first_ms]
    later = [value for each in rounds for value in each.turn.per_token_ms]
    speeds = [each.tokens_per_second for each in rounds]
    return {
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_of_rounds": [round(speed, 1) for speed in speeds],
        "first_token_ms": dict(zip(("p50", "p90"), np.percentile(first, (50, 90)).tolist(), strict=True)),
        "per_token_ms": dict(zip(("p50", "p90"), np.percentile(later, (50, 90)).tolist(), strict=True)),
        "mean_prompt_tokens": statistics.mean(each.turn.prompt_tokens for each in rounds),
        # Client and server together; steadier than throughput where others compute on the machine too.
        "cpu_ms_per_token": statistics.median(
            (each.turn.cpu_s + each.server_cpu_s) * 1e3 / each.turn.tokens for each in rounds
        ),
        # Of all cores; for a served side the process is the client.
        "process_cpu_share": statistics.median(e.turn.cpu_s / e.turn.seconds / cores for e in rounds),
        "server_cpu_share": statistics.median(e.server_cpu_s / e.turn.seconds / cores for e in rounds),
    }


# --- helpers -------------------------------------------------------------------------------------


def _newest_version(model: Path) -> Path:
    """The version folder that Triton serves."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _get_json(url: str) -> Any:
    """GET a JSON document from the server on this machine."""
    return httpx.get(url, trust_env=False).raise_for_status().json()


def _print(result: dict[str, Any]) -> None:
    """A table, and the ratios."""
    console = Console(width=110)
    settings = result["settings"]
    console.print(
        f"{result['model']}: {settings.get('engine')}, {settings.get('precision')} weights, "
        f"{settings.get('compute')} numbers, {settings.get('kv_cache_precision')} KV cache; "
        f"{result['threads']} thread(s) for each side's engine; server and client share {result['cores']} "
        f"cores; {result['tokens']} tokens an answer; prompts of {result['mix']} tokens, {result['corpus']}",
        highlight=False,
    )
    table = Table()
    headers = (
        "streams",
        "",
        "tokens/s",
        "1st token ms",
        "p90",
        "per token ms",
        "p90",
        "CPU ms/token",
        "client",
    )
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number == 1 else "right")
    for point in result["points"]:
        for name, side in point["sides"].items():
            first, later = side["first_token_ms"], side["per_token_ms"]
            table.add_row(
                str(point["streams"]),
                _NAMES[name],
                f"{side['tokens_per_second']:.0f}",
                *(f"{value:.0f}" for value in first.values()),
                *(f"{value:.1f}" for value in later.values()),
                f"{side['cpu_ms_per_token']:.2f}",
                f"{side['process_cpu_share']:.1%}" if name in SERVED else "",
            )
        table.add_section()
    console.print(table)
    for point in result["points"]:
        for name, side in point["sides"].items():
            if "ratios" in side:
                each = ", ".join(map(str, side["ratios"]))
                console.print(
                    f"{point['streams']} streams, {_NAMES[name]} to engine alone: "
                    f"{side['ratio_of_medians']:.2f}, in each round {each}",
                    highlight=False,
                )


if __name__ == "__main__":
    main()
