"""uvicorn's WebSocket protocol, able to get rid of a peer that reads nothing.

An ASGI application can only send a close frame, and that waits behind what the peer does not read; so does
the close after a ping without a pong. Here both are given some seconds, then the connection is dropped.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

CUT = "tritonforge.cut"
"""Name in the scope's ``extensions`` of a function of a close code and a reason."""
GRACE_S = 5.0


class SocketProtocol(WebSocketsSansIOProtocol):
    """Drops connections whose buffers do not empty."""

    def handle_connect(self, event: Request) -> None:
        """Give the application :meth:`cut`."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][CUT] = self.cut  # type: ignore[assignment]  # an extension of ours

    def cut(self, code: int, reason: str) -> None:
        """Close without waiting for the peer, which gets what was sent if it reads soon."""
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._drop_soon()

    def keepalive_timeout(self) -> None:
        """A ping had no pong."""
        super().keepalive_timeout()
        self._drop_soon()

    def _drop_soon(self) -> None:
        self.transport.close()
        self.loop.call_later(GRACE_S, self.transport.abort)
