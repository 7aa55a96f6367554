"""``/ws/generate``: text as it is generated, one request after another on one socket."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.websockets import WebSocket

from gateway.errors import ApiError
from gateway.facade.problems import problem_response
from gateway.facade.state import call_of, facade_of
from gateway.facade.websocket.session import Session

SUBPROTOCOL = "tritonforge.v1"
_TRY_AGAIN_LATER = 1013

router = APIRouter()


@router.websocket("/ws/generate")
async def generate(socket: WebSocket) -> None:
    """Let the caller in, or say why not before the socket opens."""
    facade = facade_of(socket)
    try:
        call = call_of(socket, streams=True)
        check_origin(socket, facade.config.listen.allow_origins)
        with facade.sockets.place(call.identity.subject):
            offered = socket.scope.get("subprotocols", ())
            await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
            await Session(socket, facade).run()
    except ApiError as error:
        await _refuse(socket, error)


def check_origin(socket: WebSocket, allowed: tuple[str, ...]) -> None:
    """Let pages of this host and of configured origins in; browsers leave that check to the server.

    Raises:
        ApiError: ``forbidden``.
    """
    origin = socket.headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return
    if urlsplit(origin).netloc != socket.headers.get("host"):
        raise ApiError(
            "forbidden",
            f"pages of {origin[:100]} may not call",
            field="origin",
            mend="add the origin to listen.allow_origins",
        )


async def _refuse(socket: WebSocket, error: ApiError) -> None:
    if "websocket.http.response" in (socket.scope.get("extensions") or {}):
        await socket.send_denial_response(problem_response(error, socket.url.path))
    else:
        await socket.close(_TRY_AGAIN_LATER, error.code.name)
