"""The four ways to Triton, each a thin layer over one tritonclient class.

Why they look as they do:

* **gRPC, sync**: ``tritonclient.grpc`` is thread-safe (its streams aside; for generation see
  :mod:`clients.calls`) and multiplexes all requests over one HTTP/2 connection.
* **gRPC, asyncio**: one channel for the life of the client. grpcio releases little of a channel that
  is dropped without ``close()`` (triton-inference-server/client#731), so channels are neither made
  for each request nor left to the garbage collector.
* **HTTP, asyncio**: ``tritonclient.http.aio``, one aiohttp connection pool.
* **HTTP, sync**: also ``tritonclient.http.aio``, on an event loop in a background thread.
  ``tritonclient.http`` is built on gevent and bound to the thread that made it. Its ``async_infer``
  sleeps 10 ms for each request it sends, and one client for each thread leaves gevent's event loop
  behind, four file descriptors, whenever such a thread ends.

gRPC channels are told to reconnect at least once a second. By default gRPC waits up to two minutes
after a server was away for a while, and answers UNAVAILABLE meanwhile though the server is back. How
long one attempt to connect may last stays gRPC's 20 seconds: ``grpc.min_reconnect_backoff_ms`` means that,
and a busy or distant server takes its time to accept.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from clients.calls import (
    AsyncCall,
    AsyncGrpcCall,
    AsyncHttpCall,
    Call,
    GrpcCall,
    HttpCall,
    grpc_request,
    http_path,
)
from clients.core import ModelMetadata
from clients.errors import ClientError, translate
from clients.generation import Fields

T = TypeVar("T")

ProtocolName = Literal["grpc", "http"]

_MAX_RECONNECT_MS = 1000


class Transport(Protocol):
    """What :class:`~clients.Client` needs of a protocol; a failed call raises ``ClientError``."""

    tensors: Any

    def infer(self, model: str, version: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Run one request and return tritonclient's result."""

    def start(self, model: str, version: str, fields: Fields, timeout: float) -> Call:
        """Begin a generation request."""

    def ready(self, model: str, version: str) -> bool:
        """Return whether the model is ready."""

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """Ask for metadata and configuration."""

    def register(self, name: str, key: str, nbytes: int) -> None:
        """Have the server map a shared memory region."""

    def unregister(self, name: str) -> None:
        """Have the server forget a shared memory region."""

    def close(self) -> None:
        """Close all connections."""


def _channel_args() -> list[tuple[str, int]]:
    from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE

    return [
        # tritonclient's own two; giving channel_args replaces them.
        ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
        ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
    ]


def _grpc_options(options: Mapping[str, Any]) -> dict[str, Any]:
    # Keepalive options only work where tritonclient fills in the channel arguments itself.
    if "keepalive_options" in options:
        return dict(options)
    return {"channel_args": _channel_args(), **options}


class GrpcTransport:
    """Blocking gRPC. Thread-safe.

    Args:
        url: ``host:port``.
        timeout: Seconds for each call, connecting included.
        headers: Sent with each call, as gRPC metadata.
        options: Passed on to ``tritonclient.grpc.InferenceServerClient``.
    """

    def __init__(
        self, url: str, timeout: float, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        """Make the channel; it connects with the first call."""
        import tritonclient.grpc

        self.tensors: Any = tritonclient.grpc
        self._url = url
        self._timeout = timeout
        self._headers = dict(headers)
        self._common = {"headers": self._headers, "client_timeout": timeout}
        self._client = tritonclient.grpc.InferenceServerClient(url, **_grpc_options(options))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs, **self._common)
        except Exception as error:
            raise translate(error, url=self._url, timeout=self._timeout) from error

    def infer(self, model: str, version: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Run one request and return tritonclient's result."""
        return self._call(self._client.infer, model, inputs, model_version=version, outputs=outputs)

    def start(self, model: str, version: str, fields: Fields, timeout: float) -> Call:
        """Begin a generation request."""
        request = grpc_request(model, version, fields)
        return GrpcCall(self._client._client_stub, self._headers, request, self._url, timeout)

    def ready(self, model: str, version: str) -> bool:
        """Return whether the model is ready."""
        return bool(self._call(self._client.is_model_ready, model, version))

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """Ask for metadata and configuration."""
        metadata = self._call(self._client.get_model_metadata, model, version, as_json=True)
        config = self._call(self._client.get_model_config, model, version, as_json=True)
        return ModelMetadata.from_server(metadata, config["config"])

    def register(self, name: str, key: str, nbytes: int) -> None:
        """Have the server map a shared memory region."""
        self._call(self._client.register_system_shared_memory, name, key, nbytes)

    def unregister(self, name: str) -> None:
        """Have the server forget a shared memory region."""
        self._call(self._client.unregister_system_shared_memory, name)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class AsyncTransport:
    """A transport on asyncio, bound to the event loop that runs when it is made.

    Args:
        url: ``host:port``; with HTTP, a base path may follow if the server is behind one.
        timeout: Seconds for each call, connecting included.
        headers: Sent with each call; gRPC calls them metadata.
        options: Passed on to tritonclient's ``InferenceServerClient``.
    """

    tensors: Any
    _client: Any
    _as_json: Mapping[str, Any] = {}

    def __init__(
        self, url: str, timeout: float, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        """Make the tritonclient; it connects with the first call."""
        self._url = url
        self._timeout = timeout
        self._headers = headers
        self._open(options)

    def _open(self, options: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _each_call(self) -> dict[str, Any]:
        # A new dict each time: tritonclient writes a request's own headers into the one it is given.
        return {"headers": dict(self._headers)}

    async def _call(self, method: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **kwargs, **self._each_call())
        except Exception as error:
            raise translate(error, url=self._url, timeout=self._timeout) from error

    async def infer(self, model: str, version: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Run one request and return tritonclient's result."""
        return await self._call(self._client.infer, model, inputs, model_version=version, outputs=outputs)

    def start(self, model: str, version: str, fields: Fields, timeout: float) -> AsyncCall:
        """Begin a generation request."""
        raise NotImplementedError

    async def ready(self, model: str, version: str) -> bool:
        """Return whether the model is ready."""
        return bool(await self._call(self._client.is_model_ready, model, version))

    async def metadata(self, model: str, version: str) -> ModelMetadata:
        """Ask for metadata and configuration."""
        metadata = await self._call(self._client.get_model_metadata, model, version, **self._as_json)
        config = await self._call(self._client.get_model_config, model, version, **self._as_json)
        return ModelMetadata.from_server(metadata, config.get("config", config))

    async def register(self, name: str, key: str, nbytes: int) -> None:
        """Have the server map a shared memory region."""
        await self._call(self._client.register_system_shared_memory, name, key, nbytes)

    async def unregister(self, name: str) -> None:
        """Have the server forget a shared memory region."""
        await self._call(self._client.unregister_system_shared_memory, name)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


class AsyncGrpcTransport(AsyncTransport):
    """gRPC on asyncio: one channel."""

    _as_json = {"as_json": True}  # noqa: RUF012 - never changed

    def _open(self, options: Mapping[str, Any]) -> None:
        import tritonclient.grpc.aio

        self.tensors = tritonclient.grpc
        self._client = tritonclient.grpc.aio.InferenceServerClient(self._url, **_grpc_options(options))

    def _each_call(self) -> dict[str, Any]:
        return {**super()._each_call(), "client_timeout": self._timeout}

    def start(self, model: str, version: str, fields: Fields, timeout: float) -> AsyncCall:
        """Begin a generation request."""
        request = grpc_request(model, version, fields)
        return AsyncGrpcCall(self._client._client_stub, self._headers, request, self._url, timeout)


class AsyncHttpTransport(AsyncTransport):
    """HTTP on asyncio: one aiohttp connection pool."""

    def _open(self, options: Mapping[str, Any]) -> None:
        import tritonclient.http.aio

        self.tensors = tritonclient.http
        # The clients bound their requests in flight; a second limit here would let requests wait on
        # their own timeout.
        defaults = {"conn_timeout": self._timeout, "conn_limit": 0}
        self._client = tritonclient.http.aio.InferenceServerClient(self._url, **{**defaults, **options})

    def start(self, model: str, version: str, fields: Fields, timeout: float) -> AsyncCall:
        """Begin a generation request; the first read sends it."""
        path = http_path(model, version)
        return AsyncHttpCall(self._client, self._headers, path, fields, self._url, timeout)


class HttpTransport:
    """Blocking HTTP. Thread-safe: :class:`AsyncHttpTransport` on an event loop in a background thread.

    Args:
        url: ``host:port``, with a base path if the server is behind one.
        timeout: Seconds for each call, connecting included.
        headers: Sent with each call.
        options: Passed on to ``tritonclient.http.aio.InferenceServerClient``.
    """

    def __init__(
        self, url: str, timeout: float, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        """Start the event loop's thread; the first call connects."""
        self._open = True
        self._lock = threading.Lock()  # nothing may reach the loop once it is about to stop
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="triton-http-client", daemon=True)
        self._thread.start()

        async def make() -> AsyncHttpTransport:
            return AsyncHttpTransport(url, timeout, headers, options)

        try:
            self._inner = self._run(make())
        except BaseException:
            self._stop()
            raise
        self.tensors: Any = self._inner.tensors

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if not self._open:
                call.close()
                raise ClientError("the client is closed", status="CANCELLED", hint="make a new one")
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the waiting thread must end the request too
            raise

    def _soon(self, action: Callable[[], None]) -> None:
        with self._lock:
            if self._open:
                self._loop.call_soon_threadsafe(action)

    async def _close_all(self) -> None:
        # Streams that other threads still read: on a stopped loop they would wait for ever.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._inner.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def infer(self, model: str, version: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Run one request and return tritonclient's result."""
        return self._run(self._inner.infer(model, version, inputs, outputs))

    def start(self, model: str, version: str, fields: Fields, timeout: float) -> Call:
        """Begin a generation request; the first read sends it."""

        async def make() -> AsyncCall:
            return self._inner.start(model, version, fields, timeout)

        return HttpCall(self._run(make()), self._run, self._soon)

    def ready(self, model: str, version: str) -> bool:
        """Return whether the model is ready."""
        return self._run(self._inner.ready(model, version))

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """Ask for metadata and configuration."""
        return self._run(self._inner.metadata(model, version))

    def register(self, name: str, key: str, nbytes: int) -> None:
        """Have the server map a shared memory region."""
        self._run(self._inner.register(name, key, nbytes))

    def unregister(self, name: str) -> None:
        """Have the server forget a shared memory region."""
        self._run(self._inner.unregister(name))

    def close(self) -> None:
        """Close the connection pool and end the thread."""
        with self._lock:
            self._open = False
        try:
            asyncio.run_coroutine_threadsafe(self._close_all(), self._loop).result()
        finally:
            self._stop()
