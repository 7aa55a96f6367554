"""A server for one load test: tritonserver on free ports, and a gateway before it where that is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loadtest.sampling import Watch
from tritonforge.server import ServerOptions, TritonServer

GATEWAY_TARGETS = ("rest", "openai", "websocket")


@dataclass(frozen=True)
class Place:
    """Where to send the load.

    Attributes:
        url: As the target takes it.
        watch: What to look at meanwhile.
    """

    url: str
    watch: Watch


@contextlib.contextmanager
def own_server(
    target: str, repository: Path, model: str, log: Path, engine_threads: int | None = None
) -> Iterator[Place]:
    """Serve one model, and stop at the end.

    Args:
        target: Who is to be asked.
        repository: Where the model is.
        model: The one that is loaded, with its parts.
        log: What the servers write.
        engine_threads: Over what the model's configuration says.

    Raises:
        RepositoryError: There is no such model.
        ServerError: The server did not start; its last lines are in the message.
    """
    options = ServerOptions(
        http_port=0, grpc_port=0, metrics_port=0, models=(model,), engine_threads=engine_threads
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as sink,
        TritonServer(repository, options, log_sink=sink, die_with_caller=True) as server,
        contextlib.ExitStack() as stack,
    ):
        url = server.grpc_url if target == "triton-grpc" else server.http_address
        pids = [server.pid]
        if target in GATEWAY_TARGETS:
            url, more = stack.enter_context(_gateway(server, sink))
            pids += more
        yield Place(url, Watch(server.metrics_url, tuple(pids)))


@contextlib.contextmanager
def _gateway(server: TritonServer, sink: IO[bytes]) -> Iterator[tuple[str, list[int]]]:
    """An open gateway without limits or cache; its URL, and its processes."""
    import psutil

    from gateway.config import GatewayConfig
    from gateway.control.background import gateway_in_background

    http, grpc = (int(address.rpartition(":")[2]) for address in (server.http_address, server.grpc_url))
    local = {"name": "local", "servers": [{"http_port": http, "grpc_port": grpc}]}
    config = GatewayConfig.model_validate(
        {
            "listen": {"port": 0},
            "metrics": {"port": 0},
            "pools": [{"regions": [local]}],
            "auth": {"disabled": True},
            "limits": {"local": None, "address": None},
            "cache": {"enabled": False},
        }
    )
    before = {child.pid for child in psutil.Process().children()}
    with gateway_in_background(config, log=sink.fileno()) as gateway:
        children = [child.pid for child in psutil.Process().children() if child.pid not in before]
        yield gateway.url, children
