"""Real parts on loopback: an Envoy with nothing but the inner listener, tritonservers, and constant load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from gateway.config import GatewayConfig
from gateway.control.admin import Admin
from gateway.envoy.clusters import write_clusters
from gateway.envoy.egress import egress_listener
from gateway.envoy.pools import pool_action
from gateway.envoy.typed import extension, socket_address, typed
from gateway.identity import POOL_HEADER
from gateway.paths import RunPaths
from gateway.triton.channel import TritonChannel
from gateway.triton.tensors import text_request
from tritonforge.errors import ServerError
from tritonforge.server import ServerOptions, TritonServer

ENVOY = Path(sys.executable).with_name("envoy")


@contextlib.contextmanager
def lone_envoy(
    config: GatewayConfig, folder: Path, *listeners: dict[str, object], **bootstrap: object
) -> Iterator[RunPaths]:
    """Envoy with the inner listener, others, and the clusters' file, until the block is left."""
    paths = RunPaths(folder)
    write_clusters(config, paths)
    content = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(paths.admin), "mode": 0o600}}},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "static_resources": {"listeners": [egress_listener(config, paths), *listeners]},
        "dynamic_resources": {
            "cds_config": {
                "path_config_source": {"path": str(paths.clusters)},
                "resource_api_version": "V3",
            }
        },
        **bootstrap,
    }
    paths.bootstrap.write_text(json.dumps(content), encoding="utf-8")
    command = [ENVOY, "-c", paths.bootstrap, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_live(process, paths)
        yield paths
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_live(process: subprocess.Popen[bytes], paths: RunPaths) -> None:
    transport = httpx.HTTPTransport(uds=str(paths.admin))
    with httpx.Client(transport=transport, base_url="http://envoy") as client:
        for _ in range(600):
            assert process.poll() is None, (paths.folder / "envoy.log").read_text(encoding="utf-8")[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if client.get("/ready").is_success:
                    return
            time.sleep(0.1)
    raise AssertionError((paths.folder / "envoy.log").read_text(encoding="utf-8")[-3000:])


@contextlib.contextmanager
def tritons(
    repository: Path, count: int, log: Path, models: tuple[str, ...] = ("embed",)
) -> Iterator[list[TritonServer]]:
    """So many tritonservers on free ports, started side by side."""
    options = options_on((0, 0, 0), models)
    with log.open("ab") as sink, ThreadPoolExecutor(count) as pool:
        servers = [TritonServer(repository, options, log_sink=sink) for _ in range(count)]
        try:
            list(pool.map(lambda server: server.start(), servers))
            yield servers
        finally:
            list(pool.map(TritonServer.stop, servers))


class Fleet:
    """tritonservers that tests borrow; those that one has ended are replaced for the next.

    Args:
        repository: What they serve of ``embed``.
        log: For their output.
    """

    def __init__(self, repository: Path, log: Path) -> None:
        self._repository, self._log = repository, log
        self._servers: list[TritonServer] = []
        self._stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def borrow(self, count: int) -> Iterator[list[TritonServer]]:
        """So many that run."""
        missing = count - len(self._servers)
        if missing > 0:
            self._servers += self._stack.enter_context(tritons(self._repository, missing, self._log))
        try:
            yield self._servers[:count]
        finally:
            for server in self._servers:
                with contextlib.suppress(ServerError, ProcessLookupError):
                    os.kill(server.pid, signal.SIGCONT)
            for server in self._servers:
                if not _lives(server):
                    server.stop()  # what is left of it
            self._servers = [server for server in self._servers if _lives(server)]

    def stop(self) -> None:
        """End all of them."""
        self._stack.close()


def _lives(server: TritonServer) -> bool:
    try:
        return server.pid > 0 and server.returncode is None
    except ServerError:
        return False


def options_on(ports: Sequence[int], models: tuple[str, ...] = ("embed",)) -> ServerOptions:
    """A small server on ports for HTTP, gRPC and metrics."""
    http, grpc_port, metrics = ports
    return ServerOptions(
        http_port=http,
        grpc_port=grpc_port,
        metrics_port=metrics,
        models=models,
        engine_threads=1,
        http_threads=2,
        log_info=False,
    )


def kserve_http(config: GatewayConfig, port: int) -> dict[str, object]:
    """A listener for KServe v2 over HTTP to the first pool, without any guard."""
    route = {"match": {"prefix": "/"}, "route": pool_action(config, config.pools[0], "http", False)}
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="kserve",
        http_filters=[extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
        route_config={
            "validate_clusters": False,
            "virtual_hosts": [{"name": "pool", "domains": ["*"], "routes": [route]}],
        },
    )
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": "kserve",
        "address": socket_address("127.0.0.1", port),
        "filter_chains": [{"filters": filters}],
    }


def one_pool(
    *regions: dict[str, object], overflow: dict[str, object] | None = None, **keys: object
) -> GatewayConfig:
    """A configuration with the pool ``main`` and regions named a, b, c in turn."""
    named = [{"name": name, **region} for name, region in zip("abc", regions, strict=False)]
    return GatewayConfig.model_validate(
        {"pools": [{"name": "main", "regions": named, "overflow": overflow}], **keys}
    )


def servers_of(*tritons: TritonServer) -> dict[str, object]:
    """A region of running servers."""
    return {"servers": [server_of(triton) for triton in tritons]}


def server_of(triton: TritonServer) -> dict[str, object]:
    """How ``gateway.yaml`` names a running server."""
    host, _, grpc_port = triton.grpc_url.rpartition(":")
    return {
        "host": host,
        "http_port": int(triton.http_address.rpartition(":")[2]),
        "grpc_port": int(grpc_port),
    }


@dataclass
class Load:
    """Requests at a constant rate, whatever becomes of them.

    Attributes:
        answered: When each answer came, on the clock of :func:`time.monotonic`.
        seconds: How long each answer took.
        errors: What came instead of an answer, and how often.
    """

    paths: RunPaths
    rate: float = 25.0
    pool: str = "main"
    timeout_s: float = 25.0
    model: str = "embed"
    answered: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Send until the block is left, then wait for every answer."""
        channel = TritonChannel(f"unix:{self.paths.egress}")
        tasks: set[asyncio.Task[None]] = set()

        async def send() -> None:
            beat = time.monotonic()
            while True:
                tasks.add(asyncio.create_task(self._ask(channel)))
                beat += 1 / self.rate
                await asyncio.sleep(max(0.0, beat - time.monotonic()))

        sender = asyncio.create_task(send())
        try:
            yield self
        finally:
            sender.cancel()
            await asyncio.gather(*tasks)
            await channel.close()

    async def _ask(self, channel: TritonChannel) -> None:
        request = text_request(self.model, "", ["calm sea and a glad heart"], ["embedding"])
        started = time.monotonic()
        self.in_flight += 1
        try:
            answer = await channel.stub.ModelInfer(
                request, timeout=self.timeout_s, metadata=[(POOL_HEADER, self.pool)]
            )
            assert answer.raw_output_contents
            self.answered.append(time.monotonic())
            self.seconds.append(time.monotonic() - started)
        except grpc.aio.AioRpcError as error:
            self.errors[f"{error.code().name}: {error.details()}"] += 1
        finally:
            self.in_flight -= 1


@contextlib.asynccontextmanager
async def streams(paths: RunPaths, count: int) -> AsyncIterator[list[Any]]:
    """So many ModelStreamInfer calls that have asked nothing yet, each a request in flight."""
    channel = TritonChannel(f"unix:{paths.egress}")
    calls = [
        channel.stub.ModelStreamInfer(timeout=300, metadata=[(POOL_HEADER, "main")]) for _ in range(count)
    ]
    try:
        yield calls
    finally:
        for call in calls:
            call.cancel()
        await channel.close()


async def ask(call: Any, *, last: bool = False) -> int:
    """Ask one question on a stream, the last one if so, and count the outputs of its answer."""
    await call.write(text_request("embed", "", ["a calm sea"], ["embedding"]))
    if last:
        await call.done_writing()
    answer = await call.read()
    assert not answer.error_message
    return len(answer.infer_response.raw_output_contents)


async def served(paths: RunPaths) -> dict[str, int]:
    """Requests that each region was sent so far over gRPC, tries counted."""
    async with Admin(paths.admin) as admin:
        found = await admin.stats(r"^cluster\.main/[^/]+/grpc\.upstream_rq_total$")
    return {name.split("/")[1]: value for name, value in found.items()}


@dataclass(frozen=True)
class Member:
    """A server as Envoy sees it.

    Attributes:
        flags: ``healthy``, or what speaks against it.
        sent: Requests so far.
        in_flight: Requests now.
    """

    flags: str
    sent: int
    in_flight: int


async def members(paths: RunPaths, cluster: str) -> dict[str, Member]:
    """Servers of a cluster by ``host:port``."""
    transport = httpx.AsyncHTTPTransport(uds=str(paths.admin))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=60) as client:
        answer = (await client.get("/clusters", params={"format": "json"})).json()
    (found,) = (each for each in answer["cluster_statuses"] if each["name"] == cluster)
    return {_address(host): _member(host) for host in found.get("host_statuses", [])}


def _address(host: dict[str, Any]) -> str:
    address = host["address"]["socket_address"]
    return f"{address['address']}:{address['port_value']}"


def _member(host: dict[str, Any]) -> Member:
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
    health = {key: value for key, value in host["health_status"].items() if key != "eds_health_status"}
    return Member(" ".join(health) or "healthy", stats["rq_total"], stats["rq_active"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that must come to pass."""
    async with asyncio.timeout(90):
        while not await condition():
            await asyncio.sleep(0.05)
