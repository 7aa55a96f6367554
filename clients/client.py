"""The blocking client."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
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
from clients.generating import Generating
from clients.shared_memory import HINT, RELEASE_PAUSES, Region, RegionPool, SharedRequest, region_lost
from clients.transports import GrpcTransport, HttpTransport, ProtocolName, Transport

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Client(Generating):
    """A blocking client of one model on a Triton server.

    ::

        from clients import Client

        with Client("localhost:8001", "minilm") as client:
            vectors = client.embed(["How do I reset my password?", "Where is my parcel?"])

    It is thread-safe, and cheapest when made once and shared: it holds one connection (gRPC) or one
    connection pool (HTTP). Make it after ``fork()``, not before. Programs patched by gevent should
    use tritonclient itself, as ``loadtest/locustfile.py`` does.

    Models that generate text are asked by :meth:`generate`, :meth:`chat`, :meth:`stream` and
    :meth:`chat_stream`.

    Lists longer than the model's ``max_batch_size`` are sent in several requests at the same time,
    and come back in order.

    Args:
        url: ``host:port`` without a scheme: port 8001 for gRPC, 8000 for HTTP, if the server has its
            default ports.
        model: Name of the model (the ensemble).
        protocol: ``"grpc"`` or ``"http"``.
        version: Version of the model; the newest that is loaded if empty.
        timeout: Seconds for each request, connecting included. A long list takes several requests,
            each with this timeout.
        concurrency: Requests of this client in flight at once, over all threads. More wait for
            their turn, which does not count against ``timeout``.
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
        """Prepare the connection; the first call makes it."""
        core.check_settings(url, protocol, timeout, concurrency, batch_size)
        self.model = model
        self.version = version
        self._timeout = timeout
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._retry = retry or RetryPolicy()
        kind = GrpcTransport if protocol == "grpc" else HttpTransport
        self._transport: Transport = kind(url, timeout, headers or {}, transport_options or {})
        self._regions = RegionPool() if shared_memory else None
        self._slots = threading.BoundedSemaphore(concurrency)
        self._workers = ThreadPoolExecutor(concurrency, thread_name_prefix=f"triton-{model}")
        self._metadata: ModelMetadata | None = None
        self._closed = False

    def embed(self, texts: Iterable[str | bytes]) -> NDArray[np.float32]:
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
        return self._infer(texts, core.EMBEDDING_OUTPUTS)["embedding"]

    def classify(self, texts: Iterable[str | bytes]) -> Classification:
        """Return the best label of each text, and the scores of all labels.

        ::

            for label, score in client.classify(["I want my money back"]).predictions:
                print(label, score)

        Args:
            texts: str, or bytes in UTF-8. An empty list gives a result of no rows.

        Returns:
            ``predictions``, a list of ``(label, score)``, and ``scores``, float32 [texts, labels].

        Raises:
            TypeError: As for :meth:`embed`.
            ClientError: As for :meth:`embed`.
        """
        return Classification.from_arrays(self._infer(texts, core.CLASSIFICATION_OUTPUTS))

    def ready(self) -> bool:
        """Return whether the model can answer now: one try, no retries.

        Returns:
            False as well if there is no such model, or no server.
        """
        self._check_open()
        try:
            return self._transport.ready(self.model, self.version)
        except NOT_READY:
            return False

    def metadata(self) -> ModelMetadata:
        """Ask the server for the model's versions, inputs, outputs and batch size.

        Raises:
            ModelNotFoundError: There is no such model.
            ClientError: Any other failure.
        """
        self._check_open()
        self._metadata = self._retrying(lambda: self._transport.metadata(self.model, self.version))
        return self._metadata

    def close(self) -> None:
        """Finish the requests in flight, give back shared memory, and close all connections."""
        if self._closed:
            return
        self._closed = True
        self._workers.shutdown()
        try:
            if self._regions is not None:
                self._release_regions(self._regions)
        finally:
            self._transport.close()

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientError("the client is closed", status="CANCELLED", hint="make a new one")

    def _infer(self, texts: Iterable[str | bytes], outputs: Sequence[str]) -> Arrays:
        self._check_open()
        encoded = core.encode_texts(texts)
        metadata = self._metadata or self.metadata()
        for name in outputs:
            metadata.output(name)
        chunks = core.split(encoded, metadata.chunk_size(self._batch_size))

        def request(chunk: Sequence[bytes]) -> Arrays:
            return self._retrying(lambda: self._send(chunk, outputs, metadata))

        try:
            parts = self._fan_out(request, chunks)
        except InvalidRequestError:
            self._metadata = None  # a new version with another batch size may have come
            raise
        return core.join(parts, metadata, outputs)

    def _fan_out(
        self, request: Callable[[Sequence[bytes]], Arrays], chunks: list[Sequence[bytes]]
    ) -> list[Arrays]:
        # The caller's own thread and a few workers draw chunks. So a lone chunk changes no thread, and
        # of two long lists the second goes on though the first has taken all workers.
        parts: list[Arrays] = [{} for _ in chunks]
        todo = deque(enumerate(chunks))

        def work() -> None:
            try:
                while True:
                    try:
                        position, chunk = todo.popleft()
                    except IndexError:
                        return
                    parts[position] = request(chunk)
            except BaseException:
                todo.clear()  # the others stop with the request that they are at
                raise

        jobs = [self._workers.submit(work) for _ in range(min(self._concurrency, len(chunks)) - 1)]
        try:
            work()
        finally:
            for job in jobs:
                job.cancel()
            wait(jobs)
        for job in jobs:
            if not job.cancelled():
                job.result()
        return parts

    def _retrying(self, call: Callable[[], T]) -> T:
        for pause in self._retry.pauses():
            try:
                return call()
            except UnavailableError:
                time.sleep(pause)
        return call()

    def _send(self, texts: Sequence[bytes], outputs: Sequence[str], metadata: ModelMetadata) -> Arrays:
        with self._slots:
            if self._regions is not None:
                return self._send_shared(self._regions, SharedRequest(texts, outputs, metadata))
            request = core.build_request(self._transport.tensors, texts, outputs)
            result = self._transport.infer(self.model, self.version, *request)
            return core.read_outputs(result, outputs, len(texts))

    def _send_shared(self, regions: RegionPool, shared: SharedRequest) -> Arrays:
        region = regions.take(shared.nbytes)
        try:
            if not region.registered:
                self._register(region)
            request = shared.build(self._transport.tensors, region)
            result = self._transport.infer(self.model, self.version, *request)
            arrays = shared.read(result, region)
        except BaseException as error:  # after a timeout the server may still write into the region
            regions.retire(region)
            if isinstance(error, ClientError) and region_lost(error):
                regions.retire_idle()
                raise UnavailableError(error.message, status="UNAVAILABLE") from error
            raise
        regions.give(region)
        self._unregister_retired(regions)
        return arrays

    def _register(self, region: Region) -> None:
        # Set before the call: if it fails half way, the server may know the region already.
        region.registered = True
        try:
            self._transport.register(region.name, region.key, region.nbytes)
        except (InvalidRequestError, ServerFaultError) as error:
            region.registered = False
            raise SharedMemoryError(error.message, status=error.status, hint=HINT) from error

    def _unregister_retired(self, regions: RegionPool) -> bool:
        """Return whether another try later may do more."""
        for name in list(regions.retired):
            try:
                self._transport.unregister(name)
            except UNREACHABLE:
                return False
            except ClientError:
                continue  # in use still
            regions.forget(name)
        return bool(regions.retired)

    def _release_regions(self, regions: RegionPool) -> None:
        regions.retire_idle()
        for pause in RELEASE_PAUSES:
            if not self._unregister_retired(regions):
                break
            time.sleep(pause)
        if regions.retired:
            logger.warning("the server may keep these shared memory regions mapped: %s", regions.retired)
