"""Takes the trace of each HTTP request and WebSocket from its headers."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.tracing import TRACEPARENT, enter

_HEADER = TRACEPARENT.encode()


class TraceRequests:
    """Middleware, the outermost: what it wraps knows the trace.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] != "lifespan":
            enter(_traceparent(scope))
        await self._app(scope, receive, send)


def _traceparent(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == _HEADER:
            decoded: str = value.decode("latin-1")
            return decoded
    return None
