"""A span for each HTTP request and WebSocket, in the trace that its headers name."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import tracing
from gateway.tracing import TRACEPARENT, Span

_HEADER = TRACEPARENT.encode()
_FAULT = 500


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
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        traceparent = _traceparent(scope)
        tracing.enter(traceparent)
        if traceparent is None:
            await self._app(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        with tracing.serving(method, {"http.request.method": method}) as span:
            if not span:
                await self._app(scope, receive, send)
                return
            try:
                await self._app(scope, receive, _noting(span, send))
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.rename(f"{method} {route}")
                    span.set({"http.route": route})


def _noting(span: Span, send: Send) -> Send:
    """Note the status, and when the answer began: of a stream, that is its first token."""
    begun = False

    async def note(message: Message) -> None:
        nonlocal begun
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            status = message["status"]
            span.set({"http.response.status_code": status})
            if status >= _FAULT:
                span.fail(str(status))
        elif not begun and kind in ("http.response.body", "websocket.send"):
            begun = True
            span.event("first byte")
        await send(message)

    return note


def _traceparent(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == _HEADER:
            decoded: str = value.decode("latin-1")
            return decoded
    return None
