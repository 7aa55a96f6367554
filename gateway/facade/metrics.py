"""Counts requests, and shows the counts to Prometheus."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.metrics import IN_FLIGHT, child, exposition, observe

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Routed by Envoy's metrics listener only."""
    body, media_type = exposition(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": media_type})


class CountRequests:
    """Middleware: duration by route and status, and how many are in flight.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        protocol = scope["type"]
        if protocol == "lifespan":
            await self._app(scope, receive, send)
            return
        status = 500 if protocol == "http" else 101

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            await send(message)

        start = time.perf_counter()
        in_flight = child(IN_FLIGHT, protocol)
        in_flight.inc()
        try:
            await self._app(scope, receive, note_status)
        finally:
            in_flight.dec()
            route = scope.get("route")
            method = getattr(route, "path", "unmatched")
            observe(protocol, method, str(status), time.perf_counter() - start)
