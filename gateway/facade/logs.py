"""Lets what a facade process logs name the request, and each fault once."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.identity import REQUEST_ID_HEADER
from gateway.logs import note_request

LOGGED = "logged"
"""An exception with this attribute is in the log already."""
_HEADER = REQUEST_ID_HEADER.encode()


class NameRequests:
    """Middleware: what it wraps logs the id of the request.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] != "lifespan":
            found = next((value for name, value in scope["headers"] if name == _HEADER), b"")
            note_request(found.decode("latin-1"))
        await self._app(scope, receive, send)


def once_only(record: logging.LogRecord) -> bool:
    """Filter of uvicorn's log: faults that our handlers answered come by here once more."""
    return not (record.exc_info and record.exc_info[1] and LOGGED in record.exc_info[1].__dict__)
