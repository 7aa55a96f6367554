"""Many sockets: who gets in, who is slow, who vanishes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any

import psutil
import pytest
from websockets.exceptions import InvalidStatus

from gateway.facade.websocket import protocol
from tests.gateway.facade.conftest import Serve, Served, wait_until
from tests.gateway.facade.websocket.conftest import ask, frames_of, opened, raw_socket, text_frame

WORDY = {"prompt": "The sun", "max_tokens": 480, "ignore_eos": True, "id": "x" * 128}
LOST = 66
RESET = struct.pack("ii", 1, 0)


async def refused(served: Served, **how: Any) -> Any:
    with pytest.raises(InvalidStatus) as caught:
        async with opened(served, **how):
            pass
    return caught.value.response


async def test_who_is_nobody(served: Served) -> None:
    response = await refused(served, token="token-of-nobody")
    assert response.status_code == 401
    assert json.loads(response.body)["code"] == "unauthenticated"
    assert response.headers["content-type"] == "application/problem+json"


async def test_bounds_on_open_sockets(serve: Serve) -> None:
    with serve(websocket={"max_open": 3, "max_open_per_user": 2}) as served:
        async with opened(served), opened(served), opened(served, token="token-of-bob"):
            mine = await refused(served)
            everybodys = await refused(served, token="token-of-bob")
        assert (mine.status_code, json.loads(mine.body)["code"]) == (429, "rate_limited")
        assert (everybodys.status_code, json.loads(everybodys.body)["code"]) == (503, "overloaded")
        assert int(mine.headers["retry-after"]) > 0
        await asyncio.to_thread(served.wait_for_sockets, 0)
        async with opened(served) as connection:
            assert (await ask(connection, prompt="a", max_tokens=1))[-1]["is_final"]


async def test_subprotocol(served: Served) -> None:
    async with opened(served, subprotocols=["other", "tritonforge.v1"]) as connection:
        assert connection.subprotocol == "tritonforge.v1"
    async with opened(served) as connection:
        assert connection.subprotocol is None


async def test_pages_of_other_hosts(serve: Serve, served: Served) -> None:
    async with opened(served, origin=served.url):
        pass
    response = await refused(served, origin="https://elsewhere.example")
    assert (response.status_code, json.loads(response.body)["field"]) == (403, "origin")
    with serve(listen={"allow_origins": ["https://elsewhere.example"]}) as open_to_them:
        async with opened(open_to_them, origin="https://elsewhere.example"):
            pass


@pytest.mark.parametrize("reads_at_last", [True, False])
async def test_a_reader_who_takes_nothing_slows_and_ends_only_itself(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, reads_at_last: bool
) -> None:
    monkeypatch.setattr(protocol, "GRACE_S", 60.0 if reads_at_last else 0.5)
    with serve(websocket={"send_timeout_s": 1.0}) as served, raw_socket(served, 4096) as stuck:
        # Pongs fill most of the buffers between, the kernel's and the server's 64 KiB; tokens fill the rest.
        stuck.sendall(text_frame({"ping": "x" * 120}) * 450)
        stuck.sendall(text_frame(WORDY))
        async with opened(served) as connection:
            frames = await ask(connection, prompt="The sun", max_tokens=100, ignore_eos=True)
        assert len(frames) > 10
        await asyncio.to_thread(served.wait_for_sockets, 0)  # its request has ended
        if reads_at_last:
            assert served.connections == 1
            received = await asyncio.to_thread(drained, stuck)
            assert struct.pack("!H", 1013) + b"frames were not read" in received
        await asyncio.to_thread(wait_until, lambda: served.connections == 0)
        assert served.connections == 0


def drained(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            received += chunk
    return received


async def test_a_slow_reader_gets_everything_in_the_end(serve: Serve) -> None:
    with serve(websocket={"send_timeout_s": 60.0}) as served, raw_socket(served, 4096) as slow:
        slow.sendall(text_frame({"ping": "x" * 120}) * 450)
        slow.sendall(text_frame(WORDY))
        await asyncio.sleep(1)
        received = b""
        while b'"finish_reason":"length"' not in received:
            received += await asyncio.to_thread(slow.recv, 2048)
        assert received.count(b'"is_final":false') > 100


async def test_two_hundred_of_whom_a_third_vanish(serve: Serve) -> None:
    process = psutil.Process()
    with serve(websocket={"ping_interval_s": 2.0, "ping_timeout_s": 2.0}) as served:
        sizes = []
        for _ in range(2):
            await _crowd(served)
            sizes.append(process.memory_info().rss)
            assert served.facade.sockets.count == 0
    assert sizes[1] - sizes[0] < 32 << 20


async def _crowd(served: Served) -> None:
    asked = {"prompt": "Go on.", "max_tokens": 40, "temperature": 1, "ignore_eos": True}
    async with contextlib.AsyncExitStack() as stack:
        stay = [
            await stack.enter_async_context(opened(served, ping_interval=None)) for _ in range(200 - LOST)
        ]
        # A third vanishes: half of those reset the connection, half are never heard of again.
        lost = [stack.enter_context(raw_socket(served)) for _ in range(LOST)]
        await asyncio.to_thread(served.wait_for_sockets, 200)
        for connection in stay:
            await connection.send(json.dumps(asked))
        for connection in lost:
            connection.sendall(text_frame(asked))
        for connection in lost[::2]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.close()
        answers = await asyncio.gather(*(frames_of(connection) for connection in stay))
        assert {frames[-1]["finish_reason"] for frames in answers} == {"length"}
        assert {frames[-1]["usage"]["completion_tokens"] for frames in answers} == {40}
        # The silent ones are missed by their pongs.
        await asyncio.to_thread(served.wait_for_sockets, len(stay))
    await asyncio.to_thread(served.wait_for_sockets, 0)
