"""What does the door cost? Envoy alone, and Envoy with the facade, over gRPC straight to Triton, in one run.

::

    tritonforge build recipes/minilm.yaml
    python -m loadtest.bench_gateway --model minilm

The ways take turns, never two at once, and their order is turned round with each round: ``direct`` (KServe v2
gRPC to tritonserver), ``envoy`` (the same through the door), ``rest`` (``POST /embed``) and ``openai``
(``POST /v1/embeddings``, floats). Behind the door everything is on that a production door has: RS256 tokens
checked, scopes, limits (too high to be reached), access log (to a file). The facade's cache is off, or it
would win. tritonserver, Envoy, the facade and the client share the machine. Added latency is measured with
one request in flight, the ways asked in turn for each text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from joserfc.jwk import RSAKey
from rich.console import Console
from rich.table import Table

from gateway.config import GatewayConfig
from gateway.control.supervisor import Gateway
from loadtest.corpus import DEFAULT_MIX, LengthMix, make_texts
from loadtest.door import door_config, door_key, door_token
from loadtest.gateway_client import Ways, run_interleaved, run_turn
from tritonforge.server import ServerOptions, TritonServer

WAYS = {
    "direct": "gRPC to Triton",
    "envoy": "gRPC through Envoy",
    "rest": "POST /embed",
    "openai": "POST /v1/embeddings",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's text."""
    options = _parse(arguments)
    result = asyncio.run(_measure(options))
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(result)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_gateway", description=(__doc__ or "").split("::")[0]
    )
    parser.add_argument("--model", default="minilm", help="an embedding model")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64], help="requests in flight")
    parser.add_argument("--texts", type=int, default=512, help="texts in a turn; fewer at low concurrency")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--mix", default=DEFAULT_MIX, help="lengths in tokens, and their weights")
    parser.add_argument("--engine-threads", type=int, default=None, help="all cores if absent")
    parser.add_argument("--log", default="build/bench_gateway.log", help="log of all servers")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    log_path = Path(options.log)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    server_options = ServerOptions(
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        engine_threads=options.engine_threads,
        models=(options.model,),
    )
    with (
        log_path.open("wb") as log,
        tempfile.TemporaryDirectory() as folder,
        TritonServer(options.repository, server_options, log_sink=log) as server,
    ):
        key = door_key()
        config = _config(server, Path(folder), key)
        async with Gateway(config, log=log.fileno()) as gateway:
            width = _width(server, options.model)
            ways = Ways(options.model, width, server.grpc_url, gateway.address, door_token(key))
            return await asyncio.to_thread(_compare, ways, options)


def _config(server: TritonServer, folder: Path, key: RSAKey) -> GatewayConfig:
    http, grpc = (int(address.rpartition(":")[2]) for address in (server.http_address, server.grpc_url))
    return GatewayConfig.model_validate(door_config(folder, key, triton_http=http, triton_grpc=grpc))


def _width(server: TritonServer, model: str) -> int:
    config = httpx.get(f"{server.http_url}/v2/models/{model}/config", trust_env=False).json()
    return int(next(output for output in config["output"] if output["name"] == "embedding")["dims"][-1])


def _compare(ways: Ways, options: argparse.Namespace) -> dict[str, Any]:
    """Added latency first, then throughput in turns."""
    mix = LengthMix.parse(options.mix)
    with ProcessPoolExecutor(1, get_context("spawn")) as client:  # gRPC does not survive a fork
        latencies = client.submit(
            run_interleaved, ways, options.ways, make_texts(max(16, options.texts // 4), mix, seed=99)
        ).result()
        throughput: dict[int, dict[str, Any]] = {}
        for concurrency in options.concurrency:
            count = min(options.texts, max(256, concurrency * 16))
            turns: dict[str, list[Any]] = {way: [] for way in options.ways}
            for number in range(options.rounds + 1):
                texts = make_texts(count, mix, seed=number)
                shift = number % len(options.ways)
                for way in (*options.ways[shift:], *options.ways[:shift]):
                    turn = client.submit(run_turn, ways, way, texts, concurrency).result()
                    if number:  # the first round warms up
                        turns[way].append(turn)
            throughput[concurrency] = {way: _summary(turns, way) for way in options.ways}
    medians = {way: statistics.median(values) for way, values in latencies.items()}
    return {
        "model": ways.model,
        "cores": len(os.sched_getaffinity(0)),
        "engine_threads": options.engine_threads,
        "mix": options.mix,
        "one_request_p50_ms": medians,
        "added_p50_ms": {way: medians[way] - medians[options.ways[0]] for way in options.ways},
        "throughput": throughput,
    }


def _summary(turns: dict[str, list[Any]], way: str) -> dict[str, Any]:
    first = next(iter(turns))
    latencies = np.concatenate([turn.latencies_ms for turn in turns[way]])
    p50, p99 = np.percentile(latencies, (50, 99)).tolist()
    ratios = [turn.rate / base.rate for turn, base in zip(turns[way], turns[first], strict=True)]
    return {
        "texts_per_second": statistics.median(turn.rate for turn in turns[way]),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "p50_ms": p50,
        "p99_ms": p99,
    }


def _print(result: dict[str, Any]) -> None:
    console = Console()
    threads = result["engine_threads"] or result["cores"]
    console.print(
        f"{result['model']}, {threads} engine thread(s); server, door and client share {result['cores']} "
        f"cores; lengths {result['mix']}",
        highlight=False,
        soft_wrap=True,
    )
    added = Table(title="one request in flight")
    for header in ("way", "p50 ms", "added ms"):
        added.add_column(header, justify="left" if header == "way" else "right")
    for way, p50 in result["one_request_p50_ms"].items():
        added.add_row(WAYS[way], f"{p50:.2f}", f"{result['added_p50_ms'][way]:+.2f}")
    console.print(added)
    table = Table(title="throughput; the ratio is the median of the rounds")
    for header in ("in flight", "way", "texts/s", "ratio", "p50 ms", "p99 ms"):
        table.add_column(header, justify="left" if header == "way" else "right")
    for concurrency, sides in result["throughput"].items():
        for way, row in sides.items():
            table.add_row(
                str(concurrency),
                WAYS[way],
                f"{row['texts_per_second']:.0f}",
                f"{row['ratio']:.2f}",
                f"{row['p50_ms']:.1f}",
                f"{row['p99_ms']:.1f}",
            )
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
