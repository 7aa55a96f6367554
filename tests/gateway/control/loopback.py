"""Real parts on loopback: an Envoy with nothing but the inner listener, tritonservers, and constant load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from gateway.config import GatewayConfig
from gateway.control.admin import Admin
from gateway.envoy.clusters import write_clusters
from gateway.envoy.egress import egress_listener
from gateway.identity import POOL_HEADER
from gateway.paths import RunPaths
from gateway.triton.channel import TritonChannel
from gateway.triton.tensors import text_request
from tritonforge.server import ServerOptions, TritonServer

ENVOY = Path(sys.executable).with_name("envoy")
RQ_TOTAL = r"^cluster\.[^.]+\.upstream_rq_total$"


@contextlib.contextmanager
def lone_envoy(config: GatewayConfig, folder: Path, **bootstrap: object) -> Iterator[RunPaths]:
    """Envoy with the inner listener and the clusters' file, until the block is left."""
    paths = RunPaths(folder)
    write_clusters(config, paths)
    content = {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(paths.admin), "mode": 0o600}}},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "static_resources": {"listeners": [egress_listener(config, paths)]},
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
        process.wait(timeout=10)


def _wait_until_live(process: subprocess.Popen[bytes], paths: RunPaths) -> None:
    transport = httpx.HTTPTransport(uds=str(paths.admin))
    with httpx.Client(transport=transport, base_url="http://envoy") as client:
        for _ in range(300):
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
    options = ServerOptions(
        http_port=0, grpc_port=0, metrics_port=0, models=models, engine_threads=1, http_threads=2
    )
    with log.open("ab") as sink, contextlib.ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        servers = [TritonServer(repository, options, log_sink=sink) for _ in range(count)]
        for server in servers:
            stack.callback(server.stop)
        list(pool.map(lambda server: server.start(60), servers))
        yield servers


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


async def served(paths: RunPaths) -> dict[str, int]:
    """Requests that each region was sent so far, tries counted."""
    async with Admin(paths.admin) as admin:
        stats = await admin.stats(r"^cluster\.main/[^/]+/grpc\.upstream_rq_total$")
    return {name.split("/")[1]: value for name, value in stats.items()}


async def by_server(paths: RunPaths, cluster: str) -> dict[str, dict[str, int | str]]:
    """Envoy's figures and flags of each server of a cluster, by ``host:port``."""
    transport = httpx.AsyncHTTPTransport(uds=str(paths.admin))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
        answer = (await client.get("/clusters")).text
    found: dict[str, dict[str, int | str]] = {}
    for line in answer.splitlines():
        name, _, rest = line.partition("::")
        if name == cluster and rest.count("::") == 2 and rest[0].isdigit():
            host, key, value = rest.split("::")
            found.setdefault(host, {})[key] = int(value) if value.isdigit() else value
    return found
