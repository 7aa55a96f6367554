"""A gateway of one's own before a server, for as long as one looks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.control.supervisor import Gateway


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
    from gateway.control.background import gateway_in_background

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
    with (
        Path(os.devnull).open("wb") as nowhere,
        gateway_in_background(config, log=nowhere.fileno()) as gateway,
    ):
        asyncio.run(_send_at_once(gateway))
        yield gateway


async def _send_at_once(gateway: Gateway) -> None:
    """Have Envoy send each span as it ends."""
    from gateway.control.admin import Admin

    async with Admin(gateway.paths.admin) as admin:
        await admin.post("/runtime_modify", **{"tracing.opentelemetry.min_flush_spans": "1"})
