"""Work ends with the caller who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message

from gateway.errors import ApiError
from gateway.facade.cancelling import CancellableStream, unless_gone


class Caller:
    """Stays until told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_the_result_comes_through() -> None:
    async def work() -> int:
        return 3

    assert await unless_gone(Caller().receive, work()) == 3


async def test_an_error_comes_through() -> None:
    async def work() -> None:
        raise ApiError("overloaded", "full")

    with pytest.raises(ApiError, match="full"):
        await unless_gone(Caller().receive, work())


async def test_work_is_cancelled_when_the_caller_leaves() -> None:
    caller, ended = Caller(), asyncio.Event()

    async def work() -> None:
        try:
            caller.left.set()
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(ApiError) as caught:
        await unless_gone(caller.receive, work())
    assert caught.value.code.name == "cancelled"
    assert ended.is_set()


async def test_a_stream_is_closed_between_two_pieces() -> None:
    caller, closed = Caller(), asyncio.Event()
    sent: list[Any] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            caller.left.set()
            await asyncio.sleep(60)
        finally:
            closed.set()

    async def send(message: Message) -> None:
        sent.append(message.get("body"))

    await CancellableStream(chunks(), media_type="text/plain")({"type": "http"}, caller.receive, send)
    assert sent == [None, b"one"]
    assert closed.is_set()
