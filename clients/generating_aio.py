"""Generation on the asyncio client; as :mod:`clients.generating`, with ``await``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Unpack

from clients.calls import AsyncCall
from clients.core import ModelMetadata, RetryPolicy
from clients.errors import ClientError, UnavailableError
from clients.generating import BaseStream
from clients.generation import (
    Completion,
    Fields,
    Message,
    Piece,
    Reply,
    Sampling,
    chat_fields,
    check_model,
    check_times,
    prompt_fields,
)
from clients.transports import AsyncTransport


class AsyncStream(BaseStream, AsyncIterator[Piece]):
    """The pieces of one answer, as they come. Leaving it early cancels the request on the server.

    ::

        async with client.stream("Once upon a time", max_tokens=100) as stream:
            async for piece in stream:
                print(piece.text, end="", flush=True)
        print(stream.completion.finish_reason)

    ``async for piece in client.stream(...)`` alone does as well: a stream that is dropped is cancelled, and
    so is one whose task is cancelled. The request is sent when the first piece is asked for.
    """

    _call: AsyncCall | None = None

    def __init__(
        self,
        start: Callable[[], Awaitable[AsyncCall]],
        retry: RetryPolicy,
        first_timeout: float | None,
        streams: bool = True,
    ) -> None:
        """Take how to send the request; :meth:`AsyncClient.stream` makes it."""
        super().__init__(retry, first_timeout, streams)
        self._start = start

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()

    async def __anext__(self) -> Piece:
        """Wait for the next piece.

        Raises:
            ClientError: As for :meth:`AsyncClient.generate`; what came before stays in :attr:`completion`.
        """
        if self._ended:
            raise StopAsyncIteration
        try:
            piece = self._take(await (self._call.read(None) if self._call is not None else self._first()))
        except BaseException as error:  # the cancellation of this task too
            closed_elsewhere = self._ended and isinstance(error, ClientError)
            self.close()
            if closed_elsewhere:
                raise StopAsyncIteration from None
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def _first(self) -> Reply | None:
        """Send the request, again if it is turned away, and wait for the first reply."""
        pauses = self._retry.pauses()
        while True:
            call = await self._start()
            self._begin(call)
            try:
                return await call.read(self._first_timeout)
            except UnavailableError:
                pause = next(pauses, None)
                if pause is None or self._ended:
                    raise
            await asyncio.sleep(pause)

    async def __aenter__(self) -> AsyncStream:
        """Return the stream itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()


class AsyncGenerating:
    """The calls of :class:`~clients.AsyncClient` for models that generate text.

    They do not count against the client's ``concurrency``: the server has a queue for them.
    """

    model: str
    version: str
    _retry: RetryPolicy
    _timeout: float
    _metadata: ModelMetadata | None

    async def metadata(self) -> ModelMetadata:
        """Ask the server about the model."""
        raise NotImplementedError

    def _transport(self) -> AsyncTransport:
        raise NotImplementedError

    async def generate(
        self, prompt: str, *, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion:
        """Continue a prompt, and return the whole answer; cancelling the task cancels it on the server.

        ::

            answer = await client.generate("The capital of France is", max_tokens=20, temperature=0.7)

        Args:
            prompt: As for :meth:`Client.generate`, and so are the errors.
            timeout: Seconds to the end of the answer; the client's own if ``None``.
            **sampling: See :class:`~clients.Sampling`.
        """
        return await self._whole(prompt_fields(prompt, sampling), timeout)

    async def chat(
        self, messages: Sequence[Message], *, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion:
        """Answer the last message of a chat, and return the whole answer.

        Args:
            messages: As for :meth:`Client.chat`, and so are the errors.
            timeout: As for :meth:`generate`.
            **sampling: See :class:`~clients.Sampling`.
        """
        return await self._whole(chat_fields(messages, sampling), timeout)

    def stream(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        first_timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> AsyncStream:
        """Continue a prompt, and give each piece as it comes.

        Args:
            prompt: As for :meth:`Client.stream`, and so are the errors.
            timeout: As for :meth:`generate`.
            first_timeout: Seconds to the first piece.
            **sampling: See :class:`~clients.Sampling`.
        """
        return self._stream(prompt_fields(prompt, sampling), timeout, first_timeout)

    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        timeout: float | None = None,
        first_timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> AsyncStream:
        """Answer the last message of a chat, and give each piece as it comes.

        Args:
            messages: As for :meth:`Client.chat_stream`, and so are the errors.
            timeout: As for :meth:`generate`.
            first_timeout: Seconds to the first piece.
            **sampling: See :class:`~clients.Sampling`.
        """
        return self._stream(chat_fields(messages, sampling), timeout, first_timeout)

    async def _whole(self, fields: Fields, timeout: float | None) -> Completion:
        async with self._stream(fields, timeout, None, streams=False) as stream:
            async for _ in stream:
                pass
            return stream.completion

    def _stream(
        self, fields: Fields, timeout: float | None, first_timeout: float | None, streams: bool = True
    ) -> AsyncStream:
        check_times(timeout=timeout, first_timeout=first_timeout)
        seconds = self._timeout if timeout is None else timeout
        sent = {**fields, "stream": True} if streams else fields

        async def start() -> AsyncCall:
            transport = self._transport()
            check_model(self._metadata or await self.metadata(), sent)
            return transport.start(self.model, self.version, sent, seconds)

        return AsyncStream(start, self._retry, first_timeout, streams)
