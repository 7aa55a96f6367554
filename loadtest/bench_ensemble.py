"""What does Triton cost? The ensemble from outside against the engine alone, in one run on one machine.

::

    python -m loadtest.bench_ensemble --model minilm

Three processes share the machine: tritonserver with the ensemble, a client with ``--concurrency``
requests of ``--request-texts`` texts in flight, and a process that runs tokenizer and engine directly, in
batches of as many texts (or of ``--direct-batch``). The last two take turns, so that a noisy machine is as
noisy for both. The same texts, the same model file, the same thread budget. Requests are encoded before the
clock starts and answers decoded after it has stopped. What is left of the client takes part of the machine
all the same, so CPU time is told for each.

Then one text at a time: what a lone request pays for the server, over tokenizer and engine called directly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import struct
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from loadtest.corpus import DEFAULT_MIX, LengthMix, make_texts
from loadtest.cpu_time import cpu_seconds
from loadtest.errors import LoadTestError
from tritonforge.server import ServerOptions, TritonServer

LATENCY_CONCURRENCIES = (1, 16, 64)
_LONE = 200
_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Load:
    """What one round of requests came to.

    Attributes:
        texts_per_second: Texts answered over the wall time of the round.
        cpu_ms: CPU time of the client for a text, milliseconds.
        p50_ms: Median latency, milliseconds.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
    """

    texts_per_second: float
    cpu_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class _Round:
    """Texts a second of either side in one round, and the CPU milliseconds of a text."""

    alone: float
    alone_cpu_ms: float
    served: float
    server_cpu_ms: float
    client_cpu_ms: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; see the module's text."""
    options = _parse(arguments)
    texts = make_texts(options.texts, LengthMix.parse(options.mix))
    server_options = ServerOptions(
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        models=(options.model,),  # others would share the machine
        engine_threads=options.engine_threads,
    )
    log_path = Path(options.log)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log, TritonServer(options.repository, server_options, log_sink=log) as server:
        result = _measure(server, texts, options)
    if options.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(result)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_ensemble", description=(__doc__ or "").split("::")[0]
    )
    parser.add_argument("--model", default="minilm", help="the ensemble")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight")
    parser.add_argument("--request-texts", type=int, default=1, help="texts in a request")
    parser.add_argument(
        "--direct-batch", type=int, default=None, help="batch of the engine alone; all in flight if absent"
    )
    parser.add_argument("--texts", type=int, default=512, help="texts in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of either side, in turns")
    parser.add_argument("--mix", default=DEFAULT_MIX, help="lengths in tokens, and their weights")
    parser.add_argument(
        "--engine-threads", type=int, default=None, help="of either side; all cores if absent"
    )
    parser.add_argument("--log", default="build/bench_ensemble.log", help="tritonserver's log")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _measure(server: TritonServer, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Take turns, then measure latencies."""
    engine = f"{options.model}_engine"
    config = _get_json(f"{server.http_url}/v2/models/{engine}/config")
    before = _counts(server, engine)
    direct_batch = options.direct_batch or options.concurrency * options.request_texts
    context = get_context("spawn")  # gRPC does not survive a fork
    with (
        ProcessPoolExecutor(
            1, context, _load_raw, (str(options.repository), options.model, config, options.engine_threads)
        ) as raw,
        ProcessPoolExecutor(1, context) as client,
    ):
        threads = raw.submit(_raw_threads).result()
        rounds: list[_Round] = []
        for number in range(options.rounds + 1):
            direct = raw.submit(_run_raw, texts, direct_batch).result()
            cpu_before = cpu_seconds(server.pid)
            served = client.submit(
                _run_client,
                server.grpc_url,
                options.model,
                texts,
                options.concurrency,
                options.request_texts,
            ).result()
            cpu = (cpu_seconds(server.pid) - cpu_before) / len(texts) * 1e3
            if number:  # the first round warms up
                rounds.append(_Round(*direct, served.texts_per_second, cpu, served.cpu_ms))
        after = _counts(server, engine)
        lone = []
        for _ in range(options.rounds):
            direct_ms = raw.submit(_run_raw_singly, texts[:_LONE]).result()
            served_ms = client.submit(_run_client, server.grpc_url, options.model, texts[:_LONE], 1).result()
            lone.append((direct_ms, served_ms.p50_ms))
        latencies = {
            concurrency: asdict(
                client.submit(
                    _run_client,
                    server.grpc_url,
                    options.model,
                    texts[: max(64, concurrency * 6)],
                    concurrency,
                ).result()
            )
            for concurrency in LATENCY_CONCURRENCIES
        }
    parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
    return {
        "model": options.model,
        "engine": parameters["engine"],
        "precision": parameters["precision"],
        "engine_threads": threads,
        "cores": len(os.sched_getaffinity(0)),
        "concurrency": options.concurrency,
        "request_texts": options.request_texts,
        "direct_batch": direct_batch,
        "mix": options.mix,
        "engine_alone_texts_per_second": statistics.median(each.alone for each in rounds),
        "ensemble_texts_per_second": statistics.median(each.served for each in rounds),
        "ratio": statistics.median(each.served / each.alone for each in rounds),
        "ratios": [round(each.served / each.alone, 3) for each in rounds],
        "engine_alone_cpu_ms": statistics.median(each.alone_cpu_ms for each in rounds),
        "server_cpu_ms": statistics.median(each.server_cpu_ms for each in rounds),
        "client_cpu_ms": statistics.median(each.client_cpu_ms for each in rounds),
        "mean_batch": (after[0] - before[0]) / max(1, after[1] - before[1]),
        "lone_alone_p50_ms": statistics.median(direct for direct, _ in lone),
        "lone_served_p50_ms": statistics.median(served for _, served in lone),
        "lone_added_ms": statistics.median(served - direct for direct, served in lone),
        "lone_added_ms_rounds": [round(served - direct, 2) for direct, served in lone],
        "latency": latencies,
    }


# --- the engine alone, in a process of its own ---------------------------------------------------

_raw: dict[str, Any] = {}


def _load_raw(repository: str, model: str, config: dict[str, Any], threads: int | None) -> None:
    """Load tokenizer and engine from the repository, with the classes that serve."""
    from python_backends.encoder.batch import BatchEncoder
    from python_backends.runners import load_runner
    from python_backends.settings import EncoderSettings, TokenizerSettings
    from python_backends.tokenizer.batch import BatchTokenizer

    if threads is not None:
        config["parameters"]["threads"]["string_value"] = str(threads)
    settings = EncoderSettings.parse(config)
    folder = _newest_version(Path(repository) / f"{model}_engine")
    runner = load_runner(settings, folder)
    encoder = BatchEncoder(runner, settings)
    encoder.probe()
    _raw["threads"] = runner.threads
    _raw["encoder"] = encoder
    limits = TokenizerSettings(max_length=settings.max_length or 512, max_text_bytes=1 << 20, threads=1)
    tokenizing = f"{model}_tokenizer"
    if not (Path(repository) / tokenizing).is_dir():  # the engine's model tokenizes too
        tokenizing = f"{model}_engine"
    _raw["tokenizer"] = BatchTokenizer(
        _newest_version(Path(repository) / tokenizing) / "tokenizer.json", limits
    )


def _raw_threads() -> int:
    """Thread budget of the engine."""
    return int(_raw["threads"])


def _run_raw(texts: list[str], batch_size: int) -> tuple[float, float]:
    """Texts a second in batches of ``batch_size`` in arrival order, and CPU milliseconds of a text."""
    arrays = [np.array([[text.encode()]], dtype=object) for text in texts]
    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), batch_size):
        tokens = _raw["tokenizer"].tokenize(arrays[first : first + batch_size])
        _raw["encoder"].encode(tokens.results, lambda index: False)
    rate = len(texts) / (time.perf_counter() - start)
    return rate, (time.process_time() - cpu) / len(texts) * 1e3


def _run_raw_singly(texts: list[str]) -> float:
    """Median time of one text, milliseconds."""
    arrays = [np.array([[text.encode()]], dtype=object) for text in texts]
    seconds = []
    for array in arrays:
        start = time.perf_counter()
        _raw["encoder"].encode(_raw["tokenizer"].tokenize([array]).results, lambda index: False)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


# --- the client, in a process of its own ---------------------------------------------------------


def _run_client(url: str, model: str, texts: list[str], concurrency: int, request_texts: int = 1) -> Load:
    """Send ``request_texts`` texts in a request, ``concurrency`` requests in flight."""
    return asyncio.run(_send_all(url, model, texts, concurrency, request_texts))


async def _send_all(url: str, model: str, texts: list[str], concurrency: int, request_texts: int) -> Load:
    """Closed loop: each worker sends its next text when the last is answered."""
    import grpc.aio
    from tritonclient.grpc import service_pb2

    starts = range(0, len(texts), request_texts)
    pending = iter([_request(model, texts[first : first + request_texts]) for first in starts])
    latencies: list[float] = []
    answers: list[bytes] = []
    async with grpc.aio.insecure_channel(url, [("grpc.enable_http_proxy", 0)]) as channel:
        infer = channel.unary_unary(_INFER)  # bytes to bytes

        async def worker() -> None:
            for request in pending:
                start = time.perf_counter()
                answers.append(await infer(request))
                latencies.append(time.perf_counter() - start)

        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    for answer in answers:
        if not any(service_pb2.ModelInferResponse.FromString(answer).raw_output_contents):
            raise LoadTestError("an answer holds nothing", where=f"model {model} on {url}")
    p50, p95, p99 = np.percentile(np.array(latencies) * 1e3, (50, 95, 99)).tolist()
    return Load(len(texts) / seconds, cpu / len(texts) * 1e3, p50, p95, p99)


def _request(model: str, texts: list[str]) -> bytes:
    """Texts as Triton's gRPC endpoint takes them: each behind its length."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    data = [text.encode() for text in texts]
    request.raw_input_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in data))
    return bytes(request.SerializeToString())


# --- helpers -------------------------------------------------------------------------------------


def _newest_version(model: Path) -> Path:
    """The version folder that Triton serves."""
    return max((path for path in model.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _counts(server: TritonServer, engine: str) -> tuple[int, int]:
    """Texts and executions of the engine so far."""
    stats = _get_json(f"{server.http_url}/v2/models/{engine}/stats")["model_stats"][0]
    return int(stats["inference_count"]), int(stats["execution_count"])


def _get_json(url: str) -> Any:
    """GET a JSON document from the server on this machine."""
    return httpx.get(url, trust_env=False).raise_for_status().json()


def _print(result: dict[str, Any]) -> None:
    """The two tables."""
    console = Console()
    console.print(
        f"{result['model']}: {result['engine']} {result['precision']}, {result['engine_threads']} engine "
        f"thread(s); server, client and engine share {result['cores']} cores; lengths {result['mix']}",
        highlight=False,
    )
    throughput = Table()
    throughput.add_column(f"{result['concurrency']} in flight, {result['request_texts']} text(s) each")
    throughput.add_column("texts/s", justify="right")
    throughput.add_column("CPU ms/text", justify="right")
    throughput.add_row(
        f"engine alone, batches of {result['direct_batch']}",
        f"{result['engine_alone_texts_per_second']:.0f}",
        f"{result['engine_alone_cpu_ms']:.2f}",
    )
    throughput.add_row(
        "ensemble, outside client",
        f"{result['ensemble_texts_per_second']:.0f}",
        f"{result['server_cpu_ms']:.2f}",
    )
    throughput.add_row("the client", "", f"{result['client_cpu_ms']:.2f}")
    throughput.add_section()
    throughput.add_row("ratio, median of the rounds", f"{result['ratio']:.2f}")
    throughput.add_row("mean batch that Triton formed", f"{result['mean_batch']:.1f}")
    throughput.add_section()
    throughput.add_row("one text, engine alone: p50 ms", f"{result['lone_alone_p50_ms']:.2f}")
    throughput.add_row("one text, ensemble: p50 ms", f"{result['lone_served_p50_ms']:.2f}")
    throughput.add_row("added, median of the rounds", f"{result['lone_added_ms']:.2f}")
    console.print(throughput)
    console.print(f"ratio in each round: {', '.join(map(str, result['ratios']))}\n", highlight=False)
    latency = Table()
    for header in ("in flight", "p50 ms", "p95 ms", "p99 ms", "texts/s"):
        latency.add_column(header, justify="right")
    for concurrency, load in result["latency"].items():
        numbers = (load["p50_ms"], load["p95_ms"], load["p99_ms"])
        latency.add_row(
            str(concurrency), *(f"{number:.1f}" for number in numbers), f"{load['texts_per_second']:.0f}"
        )
    console.print(latency)


if __name__ == "__main__":
    main()
