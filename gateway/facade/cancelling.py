"""Work for a caller ends when the caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.errors import ApiError

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """Await work for an HTTP request, and cancel it once the caller has closed the connection.

    Args:
        receive: Of a request whose body has been read: ``request.receive``.
        work: Its cancellation must end what it started, as leaving a stream of Triton's does.

    Raises:
        ApiError: ``cancelled``; the answer to it reaches nobody.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError("cancelled", "the caller went away before the answer was there")
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class CancellableStream(StreamingResponse):
    """A streamed answer whose source is closed as soon as the caller leaves, even between two pieces.

    Args:
        chunks: Pieces of the body; a slow reader makes it wait.
        headers: Of the answer.
        media_type: Of the answer.
    """

    def __init__(
        self, chunks: AsyncGenerator[bytes], *, headers: dict[str, str] | None = None, media_type: str
    ) -> None:
        """Take the source."""
        super().__init__(chunks, headers=headers, media_type=media_type)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what the source raises breaks the connection off."""
        with contextlib.suppress(ApiError):
            await unless_gone(receive, self._pump(send))

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
