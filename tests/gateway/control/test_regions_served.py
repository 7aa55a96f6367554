"""Real servers on loopback behind a real Envoy, under constant load: what fails must not be seen outside."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from gateway.control.overflow import Overflow
from gateway.control.regions import Regions
from gateway.paths import RunPaths
from tests.gateway.control.loopback import (
    Fleet,
    Load,
    ask,
    kserve_http,
    lone_envoy,
    members,
    one_pool,
    options_on,
    served,
    server_of,
    servers_of,
    streams,
    until,
)
from tritonforge.server import TritonServer
from tritonforge.server.ports import free_ports

Run = Callable[[int], AbstractContextManager[list[TritonServer]]]


@pytest.fixture
def run(fleet: Fleet) -> Run:
    """Gives so many servers that run."""
    return fleet.borrow


async def test_a_killed_server_costs_no_request(run: Run, folder: Path) -> None:
    with run(3) as (first, second, third):
        config = one_pool(servers_of(first, second), servers_of(third))
        with lone_envoy(config, folder) as paths:
            load = Load(paths, rate=40)
            async with load.running(), streams(paths, 6) as calls:
                await _answers(30, load)
                # Requests pile up in it, then they are lost with it, unary and streamed.
                first_address = first.grpc_url
                os.kill(first.pid, signal.SIGSTOP)
                asked = [asyncio.create_task(ask(call)) for call in calls]
                await until(lambda: _holds(paths, first_address, len(calls)))
                first.kill()
                assert await asyncio.gather(*asked) == [1] * len(calls)
                await until(lambda: _is_out(paths, "main/a/grpc", first_address))
                await _answers(40, load)
            assert not load.errors
            # The region still serves; the next one helps, for half of the servers here are gone.
            counts = await served(paths)
            assert counts["b"] < counts["a"]


async def test_a_slow_server_gets_less(run: Run, folder: Path) -> None:
    with run(2) as (fast, slow):
        config = one_pool(servers_of(fast, slow), resilience={"slow_start_s": 0.5})
        with lone_envoy(config, folder) as paths, _in_bursts(slow.pid, stopped_s=0.4, runs_s=0.05):
            load = Load(paths, rate=80)
            await asyncio.sleep(1.0)
            async with load.running():
                await _answers(300, load)
            sent = {address: each.sent for address, each in (await members(paths, "main/a/grpc")).items()}
    share = sent[slow.grpc_url] / sum(sent.values())
    told(f"a server that stands still for 8 of 9 parts of the time got {share:.0%} of the requests")
    assert not load.errors
    assert share < 0.35


async def test_a_region_that_is_cut_off_fails_over_and_comes_back(run: Run, folder: Path) -> None:
    with run(3) as (home, *others):
        config = one_pool(servers_of(home), servers_of(*others))
        with lone_envoy(config, folder) as paths:
            load = Load(paths, rate=20)
            async with load.running():
                await _answers(30, load)
                assert (await served(paths))["b"] == 0
                cut = time.monotonic()
                os.kill(home.pid, signal.SIGSTOP)  # it accepts connections still, and answers nothing
                await until(lambda: _serves(paths, "b", 10))
                failover = time.monotonic() - cut
                # What was sent into the void is asked again when its try is over.
                await until(lambda: _all_are_answered(load, cut + 1))
                back = time.monotonic()
                os.kill(home.pid, signal.SIGCONT)
                before = (await served(paths))["a"]
                await until(lambda: _serves(paths, "a", before + 10))
                give_back = time.monotonic() - back
                await until(lambda: _serves_alone(paths, "a"))
    told(
        f"failover to the next region after {failover:.1f} s, back {give_back:.1f} s after it returned; "
        f"{len(load.answered)} answers, none lost, the slowest after {max(load.seconds):.1f} s"
    )
    assert not load.errors
    assert failover <= 30
    assert max(load.seconds) <= 30


@pytest.mark.parametrize("over", ["grpc", "http"])
async def test_a_server_that_drains_costs_no_request(run: Run, folder: Path, over: str) -> None:
    (port,) = free_ports(1)
    with run(3) as (first, second, third):
        config = one_pool(servers_of(first, second), servers_of(third))
        with lone_envoy(config, folder, kserve_http(config, port)) as paths:
            load, answers = Load(paths, rate=40), Counter[str]()
            async with load.running() if over == "grpc" else _http_load(port, answers):
                await _answers(40, load, answers)
                assert await asyncio.to_thread(first.stop) == 0
                await _answers(40, load, answers)
            assert not load.errors
            assert set(answers) <= {"200"}


async def test_the_overflow_takes_the_excess_and_gives_it_back(run: Run, folder: Path) -> None:
    with run(2) as (home, cloud):
        spare = {"region": "b", "above": 30, "give_back_after_s": 1}
        config = one_pool(servers_of(home), servers_of(cloud), overflow=spare)
        with lone_envoy(config, folder) as paths:
            overflow = Overflow(config, paths.admin, interval_s=0.1)
            steering = asyncio.create_task(overflow.run())
            load = Load(paths, rate=25)
            async with load.running():
                await _answers(25, load)
                assert (await served(paths))["b"] == 0
                async with streams(paths, 60) as calls:
                    assert await asyncio.gather(*map(ask, calls)) == [1] * 60
                    await until(lambda: _percent(overflow, 50))
                    before = await served(paths)
                    await _answers(60, load)
                    after = await served(paths)
                    away = (after["b"] - before["b"]) / (sum(after.values()) - sum(before.values()))
                    assert 0.3 < away < 0.7
                    assert overflow.shares["main"].percent >= 50
                    low = time.monotonic()
                await until(lambda: _percent(overflow, 0))
                assert time.monotonic() - low >= 0.9
                await until(lambda: _serves_alone(paths, "a"))
                # It is the last resort too.
                before = await served(paths)
                home.kill()
                await until(lambda: _serves(paths, "b", before["b"] + 40))
            steering.cancel()
    assert not load.errors


async def test_the_overflow_falls_back_on_home(run: Run, folder: Path) -> None:
    with run(2) as (home, cloud):
        spare = {"region": "b", "above": 1, "give_back_after_s": 60}
        config = one_pool(servers_of(home), servers_of(cloud), overflow=spare)
        with lone_envoy(config, folder) as paths:
            overflow = Overflow(config, paths.admin, interval_s=0.1)
            steering = asyncio.create_task(overflow.run())
            load = Load(paths, rate=30)
            async with streams(paths, 10) as calls, load.running():
                await asyncio.gather(*map(ask, calls))
                await until(lambda: _percent(overflow, 85))
                cloud.kill()
                await _answers(60, load)
            steering.cancel()
    assert not load.errors


async def test_the_nearest_region_serves(run: Run, folder: Path) -> None:
    with run(2) as (first, second):
        delays = {"a": 0.0, "b": 0.06}
        async with _slow_road(first, delays, "a") as road_a, _slow_road(second, delays, "b") as road_b:
            regions = [
                {"servers": [{**server_of(triton), "http_port": road}]}
                for triton, road in ((first, road_a), (second, road_b))
            ]
            config = one_pool(*regions)
            with lone_envoy(config, folder) as paths:
                control = Regions(config, paths, interval_s=0.2)
                measuring = asyncio.create_task(control.run())
                load = Load(paths, rate=40)
                async with load.running():
                    order = control.pools["main"]
                    await until(lambda: _are_known(order.latencies_ms))
                    await asyncio.sleep(1)
                    assert control.pools["main"].order == ("a", "b")
                    assert control.changes == 0
                    assert (await served(paths))["b"] == 0
                    delays.update(a=0.06, b=0.0)
                    await until(lambda: _serves(paths, "b", 10))
                    before = await served(paths)
                    await _answers(40, load)
                    after = await served(paths)
                measuring.cancel()
    assert control.changes == 1
    assert after["a"] == before["a"]
    assert not load.errors


async def test_a_new_server_starts_slowly(gateway_repository: Path, run: Run, folder: Path) -> None:
    ports = free_ports(3)
    address = f"127.0.0.1:{ports[1]}"
    with run(1) as (old,), (folder / "new.log").open("wb") as log:
        later = {"http_port": ports[0], "grpc_port": ports[1]}
        region = {"servers": [server_of(old), later]}
        config = one_pool(region, resilience={"slow_start_s": 4, "health": {"interval_s": 0.5}})
        new = TritonServer(gateway_repository, options_on(ports), log_sink=log)
        with lone_envoy(config, folder) as paths:
            load = Load(paths, rate=40)
            await asyncio.sleep(4)  # now the old one no longer counts as new
            async with load.running():
                try:
                    await asyncio.to_thread(new.start)
                    await until(lambda: _is_in(paths, "main/a/grpc", address))
                    before = await members(paths, "main/a/grpc")
                    await asyncio.sleep(1.5)
                    after = await members(paths, "main/a/grpc")
                finally:
                    await asyncio.to_thread(new.stop)
    share = (after[address].sent - before[address].sent) / (
        sum(each.sent for each in after.values()) - sum(each.sent for each in before.values())
    )
    assert 0 < share < 0.35
    assert not load.errors


def told(figures: str) -> None:
    """Seen with ``pytest -s``."""
    sys.stdout.write(f"\n{figures}\n")


async def _is_out(paths: RunPaths, cluster: str, address: str) -> bool:
    return (await members(paths, cluster))[address].flags != "healthy"


async def _is_in(paths: RunPaths, cluster: str, address: str) -> bool:
    return not await _is_out(paths, cluster, address)


async def _serves(paths: RunPaths, region: str, count: int) -> bool:
    return (await served(paths))[region] >= count


async def _serves_alone(paths: RunPaths, region: str) -> bool:
    """Whether it is sent all requests, but for one at most, until there are ten."""
    before = after = await served(paths)
    while after[region] < before[region] + 10:
        await asyncio.sleep(0.1)
        after = await served(paths)
    others = sum(after.values()) - after[region]
    return others - (sum(before.values()) - before[region]) <= 1


async def _holds(paths: RunPaths, address: str, count: int) -> bool:
    """Whether a server has so many requests in flight."""
    return (await members(paths, "main/a/grpc"))[address].in_flight >= count


async def _answers(count: int, load: Load, answers: Counter[str] | None = None) -> None:
    """Wait for so many more answers."""
    wanted = len(load.answered) + sum((answers or {}).values()) + count

    async def have_come() -> bool:
        return len(load.answered) + sum((answers or {}).values()) >= wanted

    await until(have_come)


async def _are_known(latencies_ms: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, latencies_ms.values()))


async def _all_are_answered(load: Load, after: float) -> bool:
    return time.monotonic() > after and load.in_flight <= 2


async def _percent(overflow: Overflow, wanted: int) -> bool:
    percent = overflow.shares["main"].percent
    return percent >= wanted if wanted else percent == 0


@contextlib.contextmanager
def _in_bursts(pid: int, stopped_s: float, runs_s: float) -> Iterator[None]:
    """Let a process stand still again and again."""
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(stopped_s)
            os.kill(pid, signal.SIGCONT)
            over.wait(runs_s)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.asynccontextmanager
async def _http_load(port: int, answers: Counter[str]) -> AsyncIterator[None]:
    """40 requests a second of KServe v2 over HTTP."""
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a calm sea"]}]}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        async def one() -> None:
            answer = await client.post("/v2/models/embed/infer", json=body)
            answers[str(answer.status_code)] += 1

        async def send() -> None:
            while True:
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(0.025)

        tasks: list[asyncio.Task[None]] = []
        sender = asyncio.create_task(send())
        try:
            yield
        finally:
            sender.cancel()
            await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def _slow_road(triton: TritonServer, delays: dict[str, float], name: str) -> AsyncIterator[int]:
    """A port that leads to a server's HTTP port, with a delay that may change."""
    host, _, port = triton.http_address.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(delays[name])
                writer.write(data)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, back), carry(there, writer))

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
