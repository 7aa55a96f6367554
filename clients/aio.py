"""The asyncio client."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clients import core
from clients.core import Arrays, Classification, ModelMetadata, RetryPolicy
from clients.errors import (
    NOT_READY,
    UNREACHABLE,
    ClientError,
    InvalidRequestError,
    ServerFaultError,
    SharedMemoryError,
    UnavailableError,
)
from clients.generating_aio import AsyncGenerating
from clients.shared_memory import HINT, RELEASE_PAUSES, Region, RegionPool, SharedRequest, region_lost
from clients.transports import AsyncGrpcTransport, AsyncHttpTransport, AsyncTransport, ProtocolName

T = TypeVar("T")

logger = logging.getLogger(__name__)


class AsyncClient(AsyncGenerating):
    """An asyncio client of one model on a Triton server.

    ::

        from clients import AsyncClient

        async with AsyncClient("localhost:8001", "minilm") as client:
            vectors = await client.embed(["How do I reset my password?", "Where is my parcel?"])

    One client serves any number of tasks of one event loop, over one connection (gRPC) or one
    connection pool (HTTP). Make it once and close it: a client for each request costs a connection
    each, and grpcio does not free all of what a dropped channel holds.

    Lists longer than the model's ``max_batch_size`` are sent in several requests at the same time,
    and come back in order. Cancelling a call cancels its requests.

    Args:
        url: ``host:port`` without a scheme: port 8001 for gRPC, 8000 for HTTP, if the server has its
            default ports.
        model: Name of the model (the ensemble).
        protocol: ``"grpc"`` or ``"http"``.
        version: Version of the model; the newest that is loaded if empty.
        timeout: Seconds for each request, connecting included. A long list takes several requests,
            each with this timeout.
        concurrency: Requests of this client in flight at once, over all tasks. More wait for their
            turn, which does not count against ``timeout``.
        batch_size: Texts in a request at most, if fewer than the model allows.
        retry: What to do when the server is unavailable.
        shared_memory: Pass texts and numbers through shared memory. For a server on the same host
            that sees the same ``/dev/shm``; worth it for large requests only.
        headers: Sent with every request, for instance an API key.
        transport_options: Passed on to tritonclient's ``InferenceServerClient`` unchanged, for
            instance ``{"ssl": True}``.

    Raises:
        ValueError: ``url`` carries a scheme, ``protocol`` is unknown, or a number is not positive.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        protocol: ProtocolName = "grpc",
        version: str = "",
        timeout: float = 30.0,
        concurrency: int = 16,
        batch_size: int | None = None,
        retry: RetryPolicy | None = None,
        shared_memory: bool = False,
        headers: Mapping[str, str] | None = None,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the settings. The first call connects, so a client may be made outside the event loop."""
        core.check_settings(url, protocol, timeout, concurrency, batch_size)
        self.model = model
        self.version = version
        self._timeout = timeout
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._retry = retry or RetryPolicy()
        kind = AsyncGrpcTransport if protocol == "grpc" else AsyncHttpTransport
        self._connect: Callable[[], AsyncTransport] = lambda: kind(
            url, timeout, headers or {}, transport_options or {}
        )
        self._opened: AsyncTransport | None = None
        self._regions = RegionPool() if shared_memory else None
        self._slots = asyncio.Semaphore(concurrency)
        self._metadata: ModelMetadata | None = None
        self._closed = False

    async def embed(self, texts: Iterable[str | bytes]) -> NDArray[np.float32]:
        """Return the embedding of each text.

        Args:
            texts: str, or bytes in UTF-8. An empty list gives an array of no rows.

        Returns:
            float32 [texts, dim], in the order of the texts.

        Raises:
            TypeError: A lone string was given, or an item is neither str nor bytes; the message
                names its index.
            InvalidRequestError: The server refused a text, or the model gives no embeddings.
            UnavailableError: The server is away or overloaded, and still was after all retries.
            RequestTimeoutError: A request took longer than the timeout.
            ClientError: Any other failure. No partial result is returned.
        """
        return (await self._infer(texts, core.EMBEDDING_OUTPUTS))["embedding"]

    async def classify(self, texts: Iterable[str | bytes]) -> Classification:
        """Return the best label of each text, and the scores of all labels.

        ::

            result = await client.classify(["I want my money back"])
            for label, score in result.predictions:
                print(label, score)

        Args:
            texts: str, or bytes in UTF-8. An empty list gives a result of no rows.

        Returns:
            ``predictions``, a list of ``(label, score)``, and ``scores``, float32 [texts, labels].

        Raises:
            TypeError: As for :meth:`embed`.
            ClientError: As for :meth:`embed`.
        """
        return Classification.from_arrays(await self._infer(texts, core.CLASSIFICATION_OUTPUTS))

    async def ready(self) -> bool:
        """Return whether the model can answer now: one try, no retries.

        Returns:
            False as well if there is no such model, or no server.
        """
        try:
            return await self._transport().ready(self.model, self.version)
        except NOT_READY:
            return False

    async def metadata(self) -> ModelMetadata:
        """Ask the server for the model's versions, inputs, outputs and batch size.

        Raises:
            ModelNotFoundError: There is no such model.
            ClientError: Any other failure.
        """
        transport = self._transport()
        self._metadata = await self._retrying(lambda: transport.metadata(self.model, self.version))
        return self._metadata

    async def close(self) -> None:
        """Give back shared memory and close all connections. Await the calls in flight before."""
        if self._closed:
            return
        self._closed = True
        if self._opened is None:
            return
        try:
            if self._regions is not None:
                await self._release_regions(self._opened, self._regions)
        finally:
            await self._opened.close()

    async def __aenter__(self) -> AsyncClient:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    def _transport(self) -> AsyncTransport:
        if self._closed:
            raise ClientError("the client is closed", status="CANCELLED", hint="make a new one")
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    async def _infer(self, texts: Iterable[str | bytes], outputs: Sequence[str]) -> Arrays:
        transport = self._transport()
        encoded = core.encode_texts(texts)
        metadata = self._metadata or await self.metadata()
        for name in outputs:
            metadata.output(name)
        chunks = core.split(encoded, metadata.chunk_size(self._batch_size))

        async def request(chunk: Sequence[bytes]) -> Arrays:
            return await self._retrying(lambda: self._send(transport, chunk, outputs, metadata))

        try:
            parts = await self._fan_out(request, chunks)
        except InvalidRequestError:
            self._metadata = None  # a new version with another batch size may have come
            raise
        return core.join(parts, metadata, outputs)

    async def _fan_out(
        self, request: Callable[[Sequence[bytes]], Awaitable[Arrays]], chunks: list[Sequence[bytes]]
    ) -> list[Arrays]:
        # A few workers that draw chunks, rather than one task for each chunk: a long list then never
        # fills the queue in front of other tasks' calls.
        parts: list[Arrays] = [{} for _ in chunks]
        todo = deque(enumerate(chunks))

        async def work() -> None:
            while todo:
                position, chunk = todo.popleft()
                parts[position] = await request(chunk)

        tasks = [asyncio.create_task(work()) for _ in range(min(self._concurrency, len(chunks)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return parts

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        for pause in self._retry.pauses():
            try:
                return await call()
            except UnavailableError:
                await asyncio.sleep(pause)
        return await call()

    async def _send(
        self,
        transport: AsyncTransport,
        texts: Sequence[bytes],
        outputs: Sequence[str],
        metadata: ModelMetadata,
    ) -> Arrays:
        async with self._slots:
            if self._regions is not None:
                return await self._send_shared(
                    transport, self._regions, SharedRequest(texts, outputs, metadata)
                )
            request = core.build_request(transport.tensors, texts, outputs)
            result = await transport.infer(self.model, self.version, *request)
            return core.read_outputs(result, outputs, len(texts))

    async def _send_shared(
        self, transport: AsyncTransport, regions: RegionPool, shared: SharedRequest
    ) -> Arrays:
        region = regions.take(shared.nbytes)
        try:
            if not region.registered:
                await self._register(transport, region)
            request = shared.build(transport.tensors, region)
            result = await transport.infer(self.model, self.version, *request)
            arrays = shared.read(result, region)
        except BaseException as error:  # cancellation too: the server may still write into the region
            regions.retire(region)
            if isinstance(error, ClientError) and region_lost(error):
                regions.retire_idle()
                raise UnavailableError(error.message, status="UNAVAILABLE") from error
            raise
        regions.give(region)
        await self._unregister_retired(transport, regions)
        return arrays

    async def _register(self, transport: AsyncTransport, region: Region) -> None:
        # Set before the call: if it is cancelled half way, the server may know the region already.
        region.registered = True
        try:
            await transport.register(region.name, region.key, region.nbytes)
        except (InvalidRequestError, ServerFaultError) as error:
            region.registered = False
            raise SharedMemoryError(error.message, status=error.status, hint=HINT) from error

    async def _unregister_retired(self, transport: AsyncTransport, regions: RegionPool) -> bool:
        """Return whether another try later may do more."""
        for name in list(regions.retired):
            try:
                await transport.unregister(name)
            except UNREACHABLE:
                return False
            except ClientError:
                continue  # in use still
            regions.forget(name)
        return bool(regions.retired)

    async def _release_regions(self, transport: AsyncTransport, regions: RegionPool) -> None:
        regions.retire_idle()
        for pause in RELEASE_PAUSES:
            if not await self._unregister_retired(transport, regions):
                break
            await asyncio.sleep(pause)
        if regions.retired:
            logger.warning("the server may keep these shared memory regions mapped: %s", regions.retired)
