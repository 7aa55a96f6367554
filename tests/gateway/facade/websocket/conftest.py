"""Clients of ``/ws/generate``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.gateway.facade.conftest import ALICE, Served

LONG = {"prompt": "Go on.", "max_tokens": 480, "temperature": 1, "ignore_eos": True}


@contextlib.asynccontextmanager
async def opened(
    served: Served, token: str = "token-of-alice", **how: Any
) -> AsyncIterator[ClientConnection]:
    """A socket; the client's own pings are off."""
    headers = {"authorization": f"Bearer {token}"}
    how = {
        "additional_headers": headers,
        "ping_interval": None,
        "compression": None,
        "close_timeout": 1,
        "open_timeout": 60,
    } | how
    async with connect(served.ws_url, **how) as connection:
        yield connection


async def ask(connection: ClientConnection, **message: Any) -> list[Any]:
    """Send a request, and return its frames."""
    await connection.send(json.dumps(message))
    return await frames_of(connection)


async def frames_of(connection: ClientConnection) -> list[Any]:
    """Frames until the last of a request."""
    async with asyncio.timeout(120):
        frames = [json.loads(await connection.recv())]
        while not frames[-1].get("is_final"):
            frames.append(json.loads(await connection.recv()))
    return frames


@contextlib.contextmanager
def raw_socket(served: Served, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A socket past its handshake, whose client does only what the test does by hand."""
    with socket.socket() as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", served.port))
        connection.settimeout(60)
        key = b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET /ws/generate HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: {ALICE['authorization']}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101")
        yield connection


def text_frame(message: Any) -> bytes:
    """A client's frame of some JSON, masked with zeros."""
    data = json.dumps(message).encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xFE]) + len(data).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + data
