"""The facade on a real port, served as in production, with a look inside."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.facade.serving import server_options
from gateway.facade.state import Facade
from python_backends.metrics import INTERVAL
from tests.gateway.serving import InPlaceOfEnvoy
from tritonforge.server import TritonServer

ALICE = {"authorization": "Bearer token-of-alice"}
SEND_BUFFER = 16 << 10


@dataclass(frozen=True)
class Served:
    """A facade process's insides and where it listens."""

    port: int
    facade: Facade
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/generate"

    @property
    def connections(self) -> int:
        """Connections that the server holds."""
        return len(self.server.server_state.connections)

    def wait_for_sockets(self, expected: int, within_s: float = 60) -> None:
        wait_until(lambda: self.facade.sockets.count == expected, within_s)
        assert self.facade.sockets.count == expected


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def serve(triton: TritonServer) -> Serve:
    """Serves the facade on the real server: ``with serve(websocket={...}) as served``."""

    @contextlib.contextmanager
    def open_server(**sections: Any) -> Iterator[Served]:
        config = GatewayConfig.model_validate(sections)
        app = create_app(config, triton.grpc_url)
        options = server_options(config) | {"timeout_graceful_shutdown": 2}
        server = uvicorn.Server(uvicorn.Config(InPlaceOfEnvoy(app, open_door=False), **options))
        with socket.socket() as listener:
            # Small, so that a reader who is slow is felt soon.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            listener.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            wait_until(lambda: server.started or not thread.is_alive(), 60)
            assert server.started
            try:
                yield Served(listener.getsockname()[1], app.state.facade, server)
            finally:
                server.should_exit = True
                thread.join(60)
                assert not thread.is_alive()

    return open_server


@pytest.fixture(scope="session")
def served(serve: Serve) -> Iterator[Served]:
    """One with the defaults."""
    with serve() as running:
        yield running


@pytest.fixture
def finished(triton: TritonServer) -> Callable[[str], int]:
    """How many generations ended for a reason, as Triton counts them."""

    def count(reason: str) -> int:
        lines = httpx.get(triton.metrics_url, timeout=60).text.splitlines()
        named = [line for line in lines if "finished_requests_total" in line and f'{reason}"' in line]
        return sum(int(float(line.split()[-1])) for line in named)

    # The generator adds to Triton's counters now and then only.
    before = -1
    while before != (now := count("")):
        before = now
        time.sleep(2 * INTERVAL)
    return count


def wait_until(reached: Callable[[], bool], within_s: float = 60) -> None:
    limit = time.monotonic() + within_s
    while not reached() and time.monotonic() < limit:
        time.sleep(0.02)
