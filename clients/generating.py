"""Generation on the blocking client: whole answers, and streams that can be left at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Unpack

from clients.calls import Call, Cancellable
from clients.core import ModelMetadata, RetryPolicy
from clients.errors import ClientError, UnavailableError
from clients.generation import (
    Collector,
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
from clients.transports import Transport


class BaseStream:
    """What streams of both kinds share."""

    _call: Cancellable | None = None
    _collector: Collector | None = None
    _ended = False

    def __init__(self, retry: RetryPolicy, first_timeout: float | None, streams: bool) -> None:
        """Keep the settings."""
        self._retry = retry
        self._first_timeout = first_timeout
        self._streams = streams

    @property
    def completion(self) -> Completion:
        """All that has come until now; after the last piece, the whole answer."""
        return (self._collector or Collector(self._streams)).completion()

    def close(self) -> None:
        """End the stream; if the answer goes on, cancel it on the server. Does not block."""
        if self._ended:
            return
        self._ended = True
        if self._collector is not None:
            self._collector.cancel()
        if self._call is not None:
            self._call.cancel()

    def _begin(self, call: Cancellable) -> None:
        self._call = call
        self._collector = self._collector or Collector(self._streams)

    def _take(self, reply: Reply | None) -> Piece | None:
        if reply is None or self._collector is None:
            self._ended = True
            return None
        return self._collector.add(reply)

    def __del__(self) -> None:
        """Cancel what nobody will read."""
        self.close()


class Stream(BaseStream, Iterator[Piece]):
    """The pieces of one answer, as they come. Leaving it early cancels the request on the server.

    ::

        with client.stream("Once upon a time", max_tokens=100) as stream:
            for piece in stream:
                print(piece.text, end="", flush=True)
        print(stream.completion.finish_reason)

    ``for piece in client.stream(...)`` alone does as well: a stream that is dropped is cancelled. The
    request is sent when the first piece is asked for. A stream belongs to one thread; :meth:`close` may be
    called from any.
    """

    _call: Call | None = None

    def __init__(
        self, start: Callable[[], Call], retry: RetryPolicy, first_timeout: float | None, streams: bool = True
    ) -> None:
        """Take how to send the request; :meth:`Client.stream` makes it."""
        super().__init__(retry, first_timeout, streams)
        self._start = start

    def __next__(self) -> Piece:
        """Wait for the next piece.

        Raises:
            ClientError: As for :meth:`Client.generate`; what came before stays in :attr:`completion`.
        """
        if self._ended:
            raise StopIteration
        try:
            piece = self._take(self._call.read(None) if self._call is not None else self._first())
        except BaseException as error:  # Ctrl-C too
            closed_elsewhere = self._ended and isinstance(error, ClientError)
            self.close()
            if closed_elsewhere:
                raise StopIteration from None
            raise
        if piece is None:
            raise StopIteration
        return piece

    def _first(self) -> Reply | None:
        """Send the request, again if it is turned away, and wait for the first reply."""
        pauses = self._retry.pauses()
        while True:
            call = self._start()
            self._begin(call)
            try:
                return call.read(self._first_timeout)
            except UnavailableError:
                pause = next(pauses, None)
                if pause is None or self._ended:
                    raise
            time.sleep(pause)

    def __enter__(self) -> Stream:
        """Return the stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()


class Generating:
    """The calls of :class:`~clients.Client` for models that generate text.

    They do not count against the client's ``concurrency``: the server has a queue for them.
    """

    model: str
    version: str
    _retry: RetryPolicy
    _timeout: float
    _transport: Transport
    _metadata: ModelMetadata | None

    def metadata(self) -> ModelMetadata:
        """Ask the server about the model."""
        raise NotImplementedError

    def _check_open(self) -> None:
        raise NotImplementedError

    def generate(
        self, prompt: str, *, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion:
        """Continue a prompt, and return the whole answer.

        ::

            answer = client.generate("The capital of France is", max_tokens=20, temperature=0.7, seed=1)
            print(answer.text, answer.completion_tokens, answer.latency)

        Args:
            prompt: The text to continue, as it is: no chat template is applied, see :meth:`chat`.
            timeout: Seconds to the end of the answer; the client's own if ``None``. The server is told to
                stop.
            **sampling: See :class:`~clients.Sampling`.

        Raises:
            TypeError: A parameter is unknown or of a wrong type.
            ValueError: A number does not fit, or a text cannot be written as UTF-8.
            InvalidRequestError: The server refused the request, or the model does not generate.
            UnavailableError: The server is away or its queue is full, and still was after all retries.
            RequestTimeoutError: The answer took longer than the timeout.
            ClientError: Any other failure.
        """
        return self._whole(prompt_fields(prompt, sampling), timeout)

    def chat(
        self, messages: Sequence[Message], *, timeout: float | None = None, **sampling: Unpack[Sampling]
    ) -> Completion:
        """Answer the last message of a chat, and return the whole answer.

        ::

            history = [{"role": "user", "content": "What is the capital of France?"}]
            answer = client.chat(history, max_tokens=50)

        Args:
            messages: All turns until now, ``role`` and ``content`` each, which the model's chat template
                makes a prompt of.
            timeout: As for :meth:`generate`.
            **sampling: See :class:`~clients.Sampling`.

        Raises:
            TypeError: As for :meth:`generate`, or a message is no mapping of two texts.
            ValueError: As for :meth:`generate`, or there is no message.
            ClientError: As for :meth:`generate`.
        """
        return self._whole(chat_fields(messages, sampling), timeout)

    def stream(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        first_timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream:
        """Continue a prompt, and give each piece as it comes.

        Args:
            prompt: As for :meth:`generate`.
            timeout: As for :meth:`generate`.
            first_timeout: Seconds to the first piece.
            **sampling: See :class:`~clients.Sampling`.

        Raises:
            TypeError: As for :meth:`generate`.
            ValueError: As for :meth:`generate`. All other errors come with the pieces; a request is sent
                again only before the first.
        """
        return self._stream(prompt_fields(prompt, sampling), timeout, first_timeout)

    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        timeout: float | None = None,
        first_timeout: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream:
        """Answer the last message of a chat, and give each piece as it comes.

        Args:
            messages: As for :meth:`chat`.
            timeout: As for :meth:`generate`.
            first_timeout: Seconds to the first piece.
            **sampling: See :class:`~clients.Sampling`.

        Raises:
            TypeError: As for :meth:`chat`.
            ValueError: As for :meth:`chat`; other errors as for :meth:`stream`.
        """
        return self._stream(chat_fields(messages, sampling), timeout, first_timeout)

    def _whole(self, fields: Fields, timeout: float | None) -> Completion:
        with self._stream(fields, timeout, None, streams=False) as stream:
            for _ in stream:
                pass
            return stream.completion

    def _stream(
        self, fields: Fields, timeout: float | None, first_timeout: float | None, streams: bool = True
    ) -> Stream:
        self._check_open()
        check_times(timeout=timeout, first_timeout=first_timeout)
        seconds = self._timeout if timeout is None else timeout
        sent = {**fields, "stream": True} if streams else fields

        def start() -> Call:
            self._check_open()
            check_model(self._metadata or self.metadata(), sent)
            return self._transport.start(self.model, self.version, sent, seconds)

        return Stream(start, self._retry, first_timeout, streams)
