"""The facade behind a real port, for clients that want one: the openai package, browsers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.identity import SCOPES_HEADER, SUBJECT_HEADER
from tests.gateway.conftest import ALL_SCOPES

CALLERS = {"token-of-alice": ("alice", ALL_SCOPES), "token-of-bob": ("bob", "embed generate model:embed")}
_HEADERS = (SUBJECT_HEADER.encode(), SCOPES_HEADER.encode())


class InPlaceOfEnvoy:
    """Names the caller by the bearer token, as Envoy does once it has checked one.

    Args:
        app: The facade.
        open_door: Let everybody in, as ``auth.disabled`` does.
    """

    def __init__(self, app: ASGIApp, *, open_door: bool) -> None:
        self._app = app
        self._open = open_door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = dict(scope["headers"])
            token = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
            for offered in headers.get(b"sec-websocket-protocol", b"").decode().split(","):
                token = token or offered.strip().removeprefix("bearer.") if "bearer." in offered else token
            caller = ("anonymous", ALL_SCOPES) if self._open else CALLERS.get(token)
            if caller:
                found = [(name, value.encode()) for name, value in zip(_HEADERS, caller, strict=True)]
                scope = {**scope, "headers": [*scope["headers"], *found]}
        await self._app(scope, receive, send)


@contextlib.contextmanager
def serve_facade(target: str, config: GatewayConfig | None = None) -> Iterator[str]:
    """The facade's address, while it runs in a thread of its own."""
    config = config or GatewayConfig()
    app = InPlaceOfEnvoy(create_app(config, target), open_door=config.auth.disabled)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the facade did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
