"""Finds what can be watched of a running server: metrics, and processes where it is on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import psutil

from loadtest.addresses import host_and_port
from loadtest.sampling import Watch

METRICS_PORT = 8002


def find_watch(url: str, metrics_url: str | None = None) -> Watch:
    """Look who listens where a load goes to.

    Args:
        url: ``host:port``, or a base URL.
        metrics_url: Triton's ``/metrics``, where it is known.

    Returns:
        What was found; metrics at another port than 8002 only on this machine.
    """
    host, port, _ = host_and_port(url)
    pids = []
    if _is_local(host):
        pids = [pid for pid in (_listener(port),) if pid is not None]
    found = metrics_url or next(_metrics(host, pids), None)
    if found and _is_local(host_and_port(found)[0]):
        behind = _listener(host_and_port(found)[1])  # of a gateway: the tritonserver that does the work
        pids += [behind] if behind is not None and behind not in pids else []
    return Watch(found, tuple(pids))


def _metrics(host: str, pids: list[int]) -> Iterator[str]:
    """Addresses that answer with Triton's metrics."""
    own = [port for pid in pids for port in _ports(pid)]
    for port in dict.fromkeys([*own, METRICS_PORT]):
        url = f"http://{host}:{port}/metrics"
        try:
            answer = httpx.get(url, timeout=2.0, trust_env=False)
        except httpx.HTTPError:
            continue
        if "nv_inference_request_success" in answer.text:
            yield url


def _is_local(host: str) -> bool:
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {address.address for each in psutil.net_if_addrs().values() for address in each}
    return bool(found & own)


def _listener(port: int) -> int | None:
    """The process that listens there; of a gateway the one that started its Envoy."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.pid is None or _listens_on(connection) != port:
                continue
            process = psutil.Process(connection.pid)
            return process.ppid() if process.name() == "envoy" else process.pid
    except psutil.Error:  # another user's process
        return None
    return None


def _ports(pid: int) -> list[int]:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return []
    return [port for each in connections if (port := _listens_on(each)) is not None]


def _listens_on(connection: Any) -> int | None:
    """The port of a socket that listens; None of others."""
    return int(connection.laddr[1]) if connection.status == psutil.CONN_LISTEN else None
