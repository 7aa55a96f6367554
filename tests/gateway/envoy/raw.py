"""HTTP as no client library would send it."""

from __future__ import annotations

import re
import socket
import time

from tests.gateway.envoy.echo_door import EchoDoor


def send(door: EchoDoor, data: bytes, timeout_s: float = 60) -> bytes:
    """Send bytes, and give all that comes back until the other side closes, or a whole answer is there."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=timeout_s) as connection:
        connection.sendall(data)
        received = b""
        while not _whole(received):
            part = connection.recv(65536)
            if not part:
                break
            received += part
        return received


def _whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return len(body) == int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def receive(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not part:
            return received
        received += part


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request after which the connection is to be closed."""
    lines = [line, "host: door", "connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def status(answer: bytes) -> int:
    """Of an answer's first line."""
    return int(answer.split(b" ", 2)[1])


def seconds_until_closed(connection: socket.socket) -> float:
    """How long the other side keeps a connection."""
    started = time.monotonic()
    receive(connection)
    return time.monotonic() - started
