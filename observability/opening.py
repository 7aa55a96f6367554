"""A gateway of one's own before a server, for as long as one looks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.control.supervisor import Gateway

_START_S = 60.0


@contextmanager
def open_gateway(grpc_address: str, collector: str | None, *, delay_ms: int) -> Iterator[Gateway]:
    """Run an open gateway on a free port of this machine.

    It follows a caller's ``traceparent``, keeps no answers, limits nobody, and sends its spans at once.

    Args:
        grpc_address: ``host:port`` of a server; it is asked over gRPC only.
        collector: Base URL that spans go to; None: nowhere.
        delay_ms: Milliseconds after which the facade sends what it has.

    Raises:
        GatewayError: It does not start.
    """
    from gateway.config import GatewayConfig
    from gateway.control.admin import Admin
    from gateway.control.supervisor import Gateway

    host, _, port = grpc_address.rpartition(":")
    server = {"host": host.strip("[]"), "grpc_port": int(port)}
    config = GatewayConfig.model_validate(
        {
            "listen": {"port": 0},
            "metrics": {"port": 0},
            "pools": [{"regions": [{"name": "local", "servers": [server]}]}],
            "auth": {"disabled": True},
            "limits": {"local": None, "address": None},
            "cache": {"enabled": False},
            "facade": {"page": False, "docs": False},
            "logs": {"access": False},
            "tracing": {"endpoint": collector, "sampling_percent": 0, "trust_callers": True},
        }
    )
    # Facade processes inherit this one's environment.
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = str(delay_ms)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(_START_S)

    async def send_at_once(gateway: Gateway) -> None:
        async with Admin(gateway.paths.admin) as admin:
            await admin.post("/runtime_modify", **{"tracing.opentelemetry.min_flush_spans": "1"})

    try:
        with Path(os.devnull).open("wb") as nowhere:
            gateway = Gateway(config, log=nowhere.fileno())
            run(gateway.__aenter__())
            try:
                run(send_at_once(gateway))
                yield gateway
            finally:
                run(gateway.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
