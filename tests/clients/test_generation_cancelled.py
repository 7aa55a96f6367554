"""Streams that are left: the server must hear of it, and while the client is open still."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from clients import AsyncClient, Client, ClientError, Piece
from tests.clients.long_prompt import SLOW, WORDS
from tests.clients.open_files import open_files


def test_close(generate: Any, settled: Any) -> None:
    before, after = settled(), {}
    found, error, answer = generate.pieces(
        lambda client: client.stream(SLOW), take=3, then=lambda: after.update(settled())
    )
    assert after == {**before, "cancelled": before["cancelled"] + 1}
    assert (len(found), error) == (3, None)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("a b c", "cancelled", 3)
    assert answer.prompt_tokens is None


def test_leaving_the_loop(generation: Any, protocol: Any, one_cancelled: Any) -> None:
    def leave(client: Client) -> None:
        with one_cancelled():
            for _ in client.stream(SLOW):
                break

    generation(Client, protocol)(leave)


def test_leaving_the_async_loop(generation: Any, protocol: Any, settled: Any) -> None:
    async def leave(client: AsyncClient) -> dict[str, int]:
        async for _ in client.stream(SLOW):
            break
        found: dict[str, int] = await asyncio.to_thread(settled)
        return found

    before = settled()
    after = generation(AsyncClient, protocol)(leave)
    assert after == {**before, "cancelled": before["cancelled"] + 1}


def test_an_exception_in_the_block(generation: Any, protocol: Any, one_cancelled: Any) -> None:
    def fail(client: Client) -> None:
        with one_cancelled(), pytest.raises(ZeroDivisionError), client.stream(SLOW) as stream:
            next(stream)
            raise ZeroDivisionError

    generation(Client, protocol)(fail)


@pytest.mark.parametrize("whole", [True, False], ids=["generate", "stream"])
def test_cancelling_the_task(
    generation: Any, protocol: Any, whole: bool, settled: Any, counts: Callable[[], Counter[str]]
) -> None:
    async def read(client: AsyncClient) -> None:
        if whole:
            await client.generate(SLOW)
        async for _ in client.stream(SLOW):
            pass

    async def cancel(client: AsyncClient) -> dict[str, int]:
        task = asyncio.create_task(read(client))
        while not (await asyncio.to_thread(counts))["active"]:
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found: dict[str, int] = await asyncio.to_thread(settled)
        return found

    before = settled()
    after = generation(AsyncClient, protocol)(cancel)
    assert after == {**before, "cancelled": before["cancelled"] + 1}


def test_close_from_another_thread_ends_the_loop(generation: Any, protocol: Any, one_cancelled: Any) -> None:
    def read(client: Client) -> list[Piece]:
        with one_cancelled():
            found = []
            stream = client.stream(SLOW)
            for piece in stream:
                if not found:
                    threading.Thread(target=stream.close).start()
                found.append(piece)
            return found

    assert 0 < len(generation(Client, protocol)(read)) < WORDS


def test_streams_that_are_left_leave_nothing_behind(generation: Any, protocol: Any) -> None:
    def leave(client: Client) -> None:
        for _ in range(15):
            next(client.stream("!slow 0.02 a b c d e f g h"))

    def leave_more(client: Client) -> None:
        leave(client)
        time.sleep(1)  # gRPC's threads and HTTP's sockets end a moment later
        before = open_things()
        leave(client)
        deadline = time.monotonic() + 60
        while open_things() > before + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert open_things() <= before + 2

    generation(Client, protocol)(leave_more)


def open_things() -> int:
    """Files and threads of this process."""
    return open_files() + threading.active_count()


def test_closing_the_client_ends_its_streams(generation: Any, protocol: Any, one_cancelled: Any) -> None:
    def read(client: Client) -> None:
        stream = client.stream(SLOW)
        next(stream)
        threading.Thread(target=client.close).start()
        with pytest.raises(ClientError):
            list(stream)

    with one_cancelled():
        generation(Client, protocol)(read)
