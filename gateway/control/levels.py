"""Changes what a running gateway logs, by a Unix socket in its private folder.

A line of JSON asks, ``{"component": "facade", "level": "debug"}``, and one answers, with the levels of all
components, or with ``error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import httpx
import structlog

from gateway.config.schema import Logs
from gateway.config.sections import LogLevel
from gateway.control.admin import Admin
from gateway.errors import GatewayError
from gateway.logs import set_level
from gateway.paths import RunPaths
from tritonforge.errors import UsageError

logger = structlog.get_logger(__name__)

COMPONENTS = ("facade", "supervisor", "envoy")
LEVELS: tuple[str, ...] = get_args(LogLevel)
_TIMEOUT_S = 10.0


class Levels:
    """The levels of a gateway's parts.

    Args:
        logs: With which it started.
        paths: Where the parts can be reached.
        workers: Gives the numbers of the facade's processes that run.

    Attributes:
        now: Level by component; a facade process that is started anew gets it.
    """

    def __init__(self, logs: Logs, paths: RunPaths, workers: Callable[[], Iterable[int]]) -> None:
        """Nothing listens yet."""
        self._paths = paths
        self._workers = workers
        self.now: dict[str, str] = {"facade": logs.level, "supervisor": logs.level, "envoy": logs.envoy_level}

    async def run(self) -> None:
        """Answer on the socket until cancelled."""
        server = await asyncio.start_unix_server(self._serve, self._paths.control)
        async with server:
            await server.serve_forever()

    async def change(self, component: str, level: str) -> None:
        """Set the level of a component.

        Raises:
            ValueError: There is no such component, or no such level.
            httpx.HTTPError: It does not answer.
        """
        if component not in COMPONENTS or level not in LEVELS:
            raise ValueError(f"no component {component} with a level {level}")
        if component == "supervisor":
            set_level(level)
        elif component == "envoy":
            async with Admin(self._paths.admin) as admin:
                await admin.post("/logging", level=level)
        else:
            await asyncio.gather(*(_tell(self._paths.facade_http(each), level) for each in self._workers()))
        self.now[component] = level
        logger.warning("log_level", of=component, now=level)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await reader.readline())
            if asked:
                await self.change(asked["component"], asked["level"])
            answer: dict[str, Any] = self.now
        except (ValueError, KeyError, TypeError, httpx.HTTPError) as error:
            answer = {"error": str(error) or type(error).__name__}
        writer.write(json.dumps(answer).encode() + b"\n")
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


async def _tell(facade: Path, level: str) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(facade))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as client:
        (await client.post("/internal/log-level", params={"level": level})).raise_for_status()


def find_gateway() -> RunPaths:
    """The one gateway that this user runs on this machine.

    Raises:
        UsageError: There is none, or more than one.
    """
    folders = Path(tempfile.gettempdir()).glob(f"{RunPaths.PREFIX}*")
    ours = [RunPaths(folder) for folder in sorted(folders) if folder.stat().st_uid == os.getuid()]
    found = [paths for paths in ours if _listens(paths.control)]
    if len(found) != 1:
        raise UsageError(
            "no gateway runs here" if not found else f"{len(found)} gateways run here",
            where=", ".join(str(paths.folder) for paths in found) or None,
            mend="name one with --run-folder" if found else "start one: `tritonforge gateway`",
        )
    return found[0]


def ask(paths: RunPaths, component: str | None = None, level: str | None = None) -> dict[str, str]:
    """Change the level of a component of a running gateway, or ask only.

    Returns:
        Level by component.

    Raises:
        GatewayError: It does not answer, or could not do it.
    """
    question = {"component": component, "level": level} if component else {}
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_TIMEOUT_S)
            link.connect(str(paths.control))
            link.sendall(json.dumps(question).encode() + b"\n")
            with link.makefile() as lines:
                answer: dict[str, str] = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise GatewayError(
            f"the gateway does not answer: {error}", where=str(paths.control), mend="see whether it runs"
        ) from error
    if "error" in answer:
        raise GatewayError(answer["error"], where=str(paths.control), mend="see the gateway's log")
    return answer


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(str(path)) == 0
