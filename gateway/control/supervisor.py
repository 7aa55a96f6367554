"""Runs a gateway: Envoy, the facade's processes, and the loops that steer them.

Traffic is Envoy's business alone. What happens here is what no proxy can do for itself: starting, watching,
and ending processes in the right order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import structlog
from prometheus_client.multiprocess import mark_process_dead

from gateway.config import GatewayConfig
from gateway.control.admin import Admin
from gateway.control.levels import Levels
from gateway.control.overflow import Overflow
from gateway.control.prepare import prepare
from gateway.control.processes import Child
from gateway.control.regions import Regions
from gateway.errors import GatewayError
from gateway.metrics import MULTIPROCESS_VARIABLE
from gateway.paths import RunPaths
from tritonforge.server.ports import connect_host, free_ports, why_unavailable

logger = structlog.get_logger(__name__)

_ACCESS_LOG_MS = "1000"
"""A line is at most so old when it is written; Envoy's default is ten seconds."""
_END_GRACE_S = 5.0
_POLL_S = 0.1
_RESTART_S = (0.2, 5.0)
_KEYS_S = 20.0
_KEYS_READ = r"^http\.door\.jwt_authn\.jwks_fetch_success$"
_DOOR_REQUESTS = r"^http\.door\.downstream_rq_active$"


class Gateway:
    """A running gateway, as an async context manager.

    Args:
        config: ``gateway.yaml``; ports of 0 become free ones.
        log: File descriptor for the processes' output; None: this process's own.
    """

    def __init__(self, config: GatewayConfig, *, log: int | None = None) -> None:
        """Nothing is started yet."""
        self.config = _with_style(_with_ports(config), sys.stderr.fileno() if log is None else log)
        self._log = log
        self._paths: RunPaths | None = None
        self._envoy: Child | None = None
        self._facade_level: Callable[[], str] = lambda: config.logs.level
        self._facades: dict[int, Child] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def url(self) -> str:
        """Base URL of the door."""
        scheme = "https" if self.config.listen.tls else "http"
        return f"{scheme}://{self.address}"

    @property
    def address(self) -> str:
        """``host:port`` of the door, as gRPC clients take it."""
        return f"{connect_host(self.config.listen.host)}:{self.config.listen.port}"

    @property
    def metrics_url(self) -> str:
        """Base URL of the metrics listener."""
        return f"http://{connect_host(self.config.metrics.host)}:{self.config.metrics.port}"

    @property
    def paths(self) -> RunPaths:
        """Its sockets and files.

        Raises:
            GatewayError: It was not started.
        """
        if self._paths is None:
            raise GatewayError("the gateway was not started", mend="call start() first")
        return self._paths

    async def __aenter__(self) -> Gateway:
        """Start, and wait until the door answers."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: requests in flight are answered first."""
        await self.stop()

    async def start(self, timeout_s: float = 120.0) -> None:
        """Start everything and wait until Envoy listens and every facade process answers.

        Raises:
            GatewayConfigError: The configuration cannot be carried out.
            GatewayError: A port is taken, Envoy refuses its configuration, or something did not come up.
        """
        self._check_ports()
        self._paths = RunPaths(Path(tempfile.mkdtemp(prefix=RunPaths.PREFIX)))
        levels = Levels(self.config.logs, self._paths, lambda: tuple(self._facades))
        self._facade_level = lambda: levels.now["facade"]
        self._spawn(levels.run())
        envoy = await asyncio.to_thread(prepare, self.config, self._paths)
        self._envoy = await self._start_envoy(envoy)
        for worker in range(self.config.facade.workers):
            self._facades[worker] = await self._start_facade(worker)
            self._spawn(self._keep_facade(worker))
        await self._wait_for_health(timeout_s)
        for loop in self._loops():
            self._spawn(loop)

    async def wait(self) -> None:
        """Wait for what must not happen.

        Raises:
            GatewayError: Envoy ended by itself.
        """
        assert self._envoy is not None
        await self._envoy.wait()
        if not self._stopping:
            raise GatewayError(
                f"Envoy {self._envoy.how_it_ended()} by itself", mend="look into its log above"
            )

    async def stop(self) -> None:
        """Take no new connection, answer what is in flight, end everything; safe to call twice."""
        self._stopping = True
        if self._envoy is not None and self._envoy.status is None:
            await self._drain()
            await self._envoy.end(_END_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.end(_END_GRACE_S) for child in self._facades.values()))
        if self._paths is not None:
            shutil.rmtree(self._paths.folder, ignore_errors=True)

    @property
    def _metrics_folder(self) -> Path:
        """Where several facade processes add their metrics up."""
        return self.paths.folder / "metrics"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        """What steers Envoy while it runs."""
        loops = []
        if any(len(pool.home_regions) > 1 for pool in self.config.pools):
            loops.append(Regions(self.config, self.paths).run())
        if any(pool.overflow for pool in self.config.pools):
            loops.append(Overflow(self.config, self.paths.admin).run())
        return loops

    def _check_ports(self) -> None:
        for where in (self.config.listen, self.config.metrics):
            reason = why_unavailable(where.host, where.port)
            if reason is not None:
                raise GatewayError(
                    reason, where=f"{where.host}:{where.port}", mend="choose another port, or end its holder"
                )

    async def _start_envoy(self, envoy: Path) -> Child:
        command = [
            str(envoy),
            "--config-path",
            str(self.paths.bootstrap),
            "--concurrency",
            str(self.config.envoy.concurrency),
            "--disable-hot-restart",
            "--drain-time-s",
            str(int(self.config.resilience.drain_s)),
            "--log-level",
            self.config.logs.envoy_level,
            "--file-flush-interval-msec",
            _ACCESS_LOG_MS,
        ]
        return await Child.start("Envoy", command, os.environ, self._log)

    async def _start_facade(self, worker: int) -> Child:
        environment = dict(os.environ)
        if self.config.facade.workers > 1:
            self._metrics_folder.mkdir(exist_ok=True)
            environment[MULTIPROCESS_VARIABLE] = str(self._metrics_folder)
        for socket in (self.paths.facade_http(worker), self.paths.facade_grpc(worker)):
            socket.unlink(missing_ok=True)
        arguments = (str(self.paths.folder), str(worker), self._facade_level())
        command = [sys.executable, "-m", "gateway.facade", *arguments]
        return await Child.start(f"facade {worker}", command, environment, self._log)

    async def _keep_facade(self, worker: int) -> None:
        """Start a facade process anew when it ends, after pauses that grow if it keeps ending."""
        pause, longest = _RESTART_S
        while True:
            started = time.monotonic()
            child = self._facades[worker]
            await child.wait()
            if self._stopping:
                return
            logger.error("facade_ended", worker=worker, how=child.how_it_ended(), again_in_s=pause)
            if self._metrics_folder.is_dir():
                # Its gauges count no more.
                mark_process_dead(child.pid, str(self._metrics_folder))  # type: ignore[no-untyped-call]
            await asyncio.sleep(pause)
            pause = _RESTART_S[0] if time.monotonic() - started > 60 else min(pause * 2, longest)
            self._facades[worker] = await self._start_facade(worker)

    async def _wait_for_health(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        folder = self.paths.folder
        while time.monotonic() < deadline:
            assert self._envoy is not None
            for child in (self._envoy, *self._facades.values()):
                if child.status is not None:
                    raise GatewayError(
                        f"{child.name} {child.how_it_ended()} before it was ready",
                        mend="look into its log above",
                    )
            answers = [await _answers(self.paths.facade_http(worker)) for worker in self._facades]
            if all(answers) and await self._is_live():
                await self._wait_for_keys()
                return
            await asyncio.sleep(_POLL_S)
        raise GatewayError(
            f"the door did not answer within {timeout_s:g} s",
            where=str(folder),
            mend="look into the log above",
        )

    async def _is_live(self) -> bool:
        """Whether Envoy listens, and has found its clusters."""
        async with Admin(self.paths.admin) as admin:
            with contextlib.suppress(httpx.HTTPError):
                return (await admin.stats("^server.state$")).get("server.state") == 0
        return False

    async def _wait_for_keys(self) -> None:
        """Until Envoy has the issuers' key files, which the facade gives it; a token is refused before."""
        files = sum(issuer.jwks_file is not None for issuer in self.config.auth.issuers)
        deadline = time.monotonic() + _KEYS_S
        async with Admin(self.paths.admin) as admin:
            while files and sum((await admin.stats(_KEYS_READ)).values()) < files:
                if time.monotonic() > deadline:
                    logger.error("keys_not_read", message="tokens are refused until Envoy gets the keys")
                    return
                await asyncio.sleep(_POLL_S)

    async def _drain(self) -> None:
        """Close the door to new connections, and wait for the requests in flight."""
        deadline = time.monotonic() + self.config.resilience.drain_s
        async with Admin(self.paths.admin) as admin:
            with contextlib.suppress(httpx.HTTPError):
                await admin.post("/drain_listeners", inboundonly="")
                while time.monotonic() < deadline:
                    if not any((await admin.stats(_DOOR_REQUESTS)).values()):
                        return
                    await asyncio.sleep(_POLL_S)
                logger.warning("drain_over", message="requests were still in flight at the end of drain_s")


async def _answers(socket: Path) -> bool:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as client:
        try:
            return (await client.get("/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


def _with_ports(config: GatewayConfig) -> GatewayConfig:
    """Put free ports where the configuration leaves them open."""
    updates: dict[str, Any] = {}
    for key in ("listen", "metrics"):
        section = getattr(config, key)
        if section.port == 0:
            updates[key] = section.model_copy(update={"port": free_ports(1, section.host)[0]})
    return config.model_copy(update=updates)


def _with_style(config: GatewayConfig, log: int) -> GatewayConfig:
    """Choose the form of the logs where the configuration leaves it open."""
    if config.logs.format != "auto":
        return config
    style = "text" if os.isatty(log) else "json"
    return config.model_copy(update={"logs": config.logs.model_copy(update={"format": style})})
