"""A gateway that runs beside code that knows no event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from gateway.config import GatewayConfig
from gateway.control.supervisor import Gateway
from gateway.errors import GatewayError

_LIMIT_S = 180.0  # its start and its stop have bounds of their own, which come first


@contextmanager
def gateway_in_background(config: GatewayConfig, *, log: int) -> Iterator[Gateway]:
    """Run a gateway on a loop in a thread of its own, and stop it at the end.

    Args:
        config: ``gateway.yaml``; ports of 0 become free ones.
        log: File descriptor for its processes' output.

    Raises:
        GatewayError: It does not start.
    """
    gateway = Gateway(config, log=log)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(_LIMIT_S)

    try:
        try:
            try:
                run(gateway.start())
            except TimeoutError as error:
                raise GatewayError(
                    f"the gateway did not start in {_LIMIT_S:.0f} s", mend="read its processes' output"
                ) from error
            yield gateway
        finally:
            run(gateway.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
