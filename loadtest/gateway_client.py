"""A client of each way in, for :mod:`loadtest.bench_gateway`; as lean as the protocol allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import grpc.aio
import numpy as np
import orjson
from tritonclient.grpc.service_pb2 import ModelInferResponse
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gateway.triton.tensors import text_request

Ask = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class Ways:
    """Where to ask.

    Attributes:
        model: The encoder.
        width: Numbers in an answer.
        triton: ``host:port`` of the server's gRPC.
        door: ``host:port`` of the gateway.
        token: For the gateway.
    """

    model: str
    width: int
    triton: str
    door: str
    token: str


@dataclass(frozen=True)
class Turn:
    """What one turn of one way came to.

    Attributes:
        seconds: Wall time.
        latencies_ms: Of each request, milliseconds.
    """

    seconds: float
    latencies_ms: list[float]

    @property
    def rate(self) -> float:
        """Texts a second."""
        return len(self.latencies_ms) / self.seconds


def run_turn(ways: Ways, way: str, texts: Sequence[str], concurrency: int) -> Turn:
    """Ask each text in a request of its own, so many in flight."""

    async def run() -> Turn:
        async with AsyncExitStack() as stack:
            ask = await _open(stack, ways, way)
            await ask(texts[0])
            pending = iter(texts)
            latencies: list[float] = []

            async def worker() -> None:
                for text in pending:
                    latencies.append(await _timed(ask, text))

            start = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(concurrency)))
            return Turn(time.perf_counter() - start, latencies)

    return asyncio.run(run())


def run_interleaved(ways: Ways, names: Sequence[str], texts: Sequence[str]) -> dict[str, list[float]]:
    """Ask each text by every way, one right after the other, the order turned round with each text.

    So a machine that is slow for a while is slow for all.

    Returns:
        Latencies of each way, milliseconds.
    """

    async def run() -> dict[str, list[float]]:
        async with AsyncExitStack() as stack:
            asks = {name: await _open(stack, ways, name) for name in names}
            latencies: dict[str, list[float]] = {name: [] for name in names}
            for ask in asks.values():
                await ask(texts[0])
            for number, text in enumerate(texts):
                shift = number % len(names)
                for name in (*names[shift:], *names[:shift]):
                    latencies[name].append(await _timed(asks[name], text))
            return latencies

    return asyncio.run(run())


async def _timed(ask: Ask, text: str) -> float:
    start = time.perf_counter()
    await ask(text)
    return (time.perf_counter() - start) * 1e3


async def _open(stack: AsyncExitStack, ways: Ways, way: str) -> Ask:
    if way in ("direct", "envoy"):
        return await _open_grpc(stack, ways, through_the_door=way == "envoy")
    return await _open_http(stack, ways, way)


async def _open_grpc(stack: AsyncExitStack, ways: Ways, *, through_the_door: bool) -> Ask:
    target = ways.door if through_the_door else ways.triton
    channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)])
    )
    stub = GRPCInferenceServiceStub(channel)
    metadata = [("authorization", f"Bearer {ways.token}")] if through_the_door else None

    async def ask(text: str) -> None:
        request = text_request(ways.model, "", [text], ["embedding"])
        response: ModelInferResponse = await stub.ModelInfer(request, metadata=metadata)
        vector = np.frombuffer(response.raw_output_contents[0], np.float32)
        assert len(vector) == ways.width

    return ask


async def _open_http(stack: AsyncExitStack, ways: Ways, way: str) -> Ask:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"authorization": f"Bearer {ways.token}", "content-type": "application/json"},
        )
    )
    url = f"http://{ways.door}/embed" if way == "rest" else f"http://{ways.door}/v1/embeddings"
    key = "text" if way == "rest" else "input"

    async def ask(text: str) -> None:
        body = orjson.dumps({key: text, "model": ways.model})
        async with session.post(url, data=body) as response:
            response.raise_for_status()
            answer = orjson.loads(await response.read())
            if way == "openai":
                answer = answer["data"][0]
            assert len(answer["embedding"]) == ways.width

    return ask
