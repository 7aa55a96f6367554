"""Free ports, and who holds one that is not free."""

from __future__ import annotations

import socket

import psutil


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that are free now; another process may still take one before it is used."""
    sockets = [socket.socket(_family(host), socket.SOCK_STREAM) for _ in range(count)]
    try:
        for each in sockets:
            each.bind((host, 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def why_unavailable(host: str, port: int) -> str | None:
    """Say why nothing can listen on ``host:port``, with the process that holds it; None if it can."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no holder
        try:
            probe.bind((host, port))
            # Only listening tells: with SO_REUSEADDR two sockets may bind the same port.
            probe.listen(1)
        except OSError as error:
            reason = error.strerror or str(error)
            holder = _holder(port)
            return f"{reason}; held by {holder}" if holder else reason
    return None


def connect_host(host: str) -> str:
    """Return the address at which a client on this machine reaches a server that listens on ``host``."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def _holder(port: int) -> str | None:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            local_port = connection.laddr[1] if connection.laddr else None
            if connection.status == psutil.CONN_LISTEN and local_port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:  # another user's process, or one that ended meanwhile
        return None
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
