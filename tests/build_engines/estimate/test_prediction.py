"""The prediction against the real thing: tritonserver with MiniLM, 64 requests in flight, on this machine.

Memory must be within a quarter. Texts a second are printed beside the prediction, and must only be of its
order: what a machine shared with strangers lets a server do at some moment decides about no test. The
calibration, which measures one layer of random weights, is made right before the server is measured, so that
both see the same machine.
Run with ``-s`` for the figures.

Where other work takes a good part of the processor, texts a second say how much was left over, not what
the server can do. Then CPU seconds a text are what is compared: all cores, as far as the service keeps
them at work on an idle machine, over the CPU seconds that server, stubs and client used for a text.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from build_engines.estimate.busy import BUSY, OtherLoad
from build_engines.estimate.estimate import CpuEstimate, estimate
from build_engines.pipeline import build, make_context
from clients import AsyncClient
from loadtest.corpus import DEFAULT_MIX, LengthMix, make_texts
from tritonforge.recipe import load_recipe
from tritonforge.server import ServerOptions, TritonServer

CHECKOUT = Path(__file__).parents[3]
IN_FLIGHT = 64
TEXTS = 1024
ROUNDS = 6  # memory has nearly levelled off then
ORDER = 5
"""Factor within which the texts a second are of the order of the prediction."""
KEPT_BUSY = 0.92
"""Share of two cores that server, stubs and client keep at work on an idle machine, 64 in flight."""


@dataclass(frozen=True)
class Observed:
    """What one server did.

    Attributes:
        loaded: Bytes after a few lone requests, proportional set size of the process tree.
        settled: Bytes in the end.
        rates: Texts a second of each round, on a machine of one's own.
    """

    loaded: float
    settled: float
    rates: list[float]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def tree(pid: int) -> list[psutil.Process]:
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


def memory(pid: int) -> float:
    """Proportional set size: what processes share counts once."""
    return float(sum(process.memory_full_info().pss for process in tree(pid)))


async def send(url: str, model: str, texts: list[str], in_flight: int = IN_FLIGHT) -> float:
    """Send every text in a request of its own; seconds that it took."""
    pending = iter(texts)
    async with AsyncClient(url, model, concurrency=in_flight, timeout=120) as client:

        async def work() -> None:
            for text in pending:
                vectors = await client.embed([text])
                assert vectors.shape == (1, 384)

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return time.perf_counter() - start


def observe(repository: Path, model: str, log: Path) -> Observed:
    """Serve and measure."""
    texts = make_texts(TEXTS, LengthMix.parse(DEFAULT_MIX))
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    rates = []
    with log.open("wb") as sink, TritonServer(repository, options, log_sink=sink) as server:
        asyncio.run(send(server.grpc_url, model, texts[:4], 1))  # a large batch has activations besides
        loaded = memory(server.pid)
        for _ in range(ROUNDS):
            load = OtherLoad(tree(server.pid))
            seconds = asyncio.run(send(server.grpc_url, model, texts))
            there, own, _ = load.seconds()
            rate = len(texts) / seconds
            if load.share() >= BUSY:
                rate = KEPT_BUSY * (there / seconds) / (own / len(texts))
            rates.append(rate)
            say(
                f"  {len(texts) / seconds:.0f} texts/s, others took {load.share():.0%}, "
                f"{own / len(texts) * 1e3:.2f} CPU ms a text; alone {rate:.0f} texts/s; "
                f"{memory(server.pid) / 1e6:.0f} MB"
            )
        return Observed(loaded, memory(server.pid), rates)


def predict(name: str, engine: str, build_root: Path) -> CpuEstimate:
    recipe = load_recipe(CHECKOUT / "recipes" / "minilm.yaml", [f"engine={engine}", f"name={name}"])
    found = estimate(recipe, qps=100, p99_ms=1000, gpus=["t4"], build_dir=build_root, again=True)
    assert [each.engine for each in found.cpu] == [engine], found.notes
    return found.cpu[0]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_memory_is_as_predicted_and_throughput_of_that_order(
    engine: str, minilm_build_root: Path, tmp_path: Path
) -> None:
    path = CHECKOUT / "recipes" / "minilm.yaml"
    context = make_context(
        load_recipe(path, [f"engine={engine}"]), path, tmp_path / "repository", minilm_build_root
    )
    build(context)
    predicted = predict("minilm", engine, minilm_build_root)
    observed = observe(tmp_path / "repository", "minilm", tmp_path / "server.log")
    rate = statistics.median(observed.rates[1:])
    expected = predicted.local_rates[IN_FLIGHT]
    say(
        f"{engine}: predicted {expected:.0f} texts/s, observed {rate:.0f}; "
        f"memory after loading {predicted.memory.loaded / 1e6:.0f} MB, {observed.loaded / 1e6:.0f}; "
        f"in the end {predicted.memory.total / 1e6:.0f} MB, {observed.settled / 1e6:.0f}"
    )
    assert predicted.memory.total == pytest.approx(observed.settled, rel=0.25)
    assert predicted.memory.loaded == pytest.approx(observed.loaded, rel=0.25)
    assert 1 / ORDER < rate / expected < ORDER
