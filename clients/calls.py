"""One generation request in flight, on each of the four transports: read its replies, or cancel it.

* **gRPC**: a ``ModelStreamInfer`` of its own for each request, because a decoupled model refuses
  ``ModelInfer``. tritonclient holds one stream a client (triton-inference-server/client#783) and gives no
  hold on a single request, so the stub under it is called directly; ``cancel()`` reaches the model.
* **HTTP**: ``generate_stream`` for whole answers too. tritonserver notices that a client is gone when it
  sends, so a request to ``generate`` would run to its end for nobody.

tritonserver answers 400 to whatever fails in ``generate_stream``, sends no status at all once pieces have
come, and never one within a gRPC stream: the kind of an error is read from its text
(:func:`~clients.errors.stream_status`).
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, Protocol
from urllib.parse import quote

from tritonclient.utils import InferenceServerException

from clients.errors import ClientError, RequestTimeoutError, stream_status, translate
from clients.generation import DATATYPES, Fields, Reply

_CONTENTS = {
    "BYTES": "bytes_contents",
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
}
_EVENT_END = b"\n\n"


class Cancellable(Protocol):
    """A request in flight."""

    def cancel(self) -> None:
        """Have the server stop. Does not block, and does nothing after the end."""


class Call(Cancellable, Protocol):
    """A request in flight, blocking."""

    def read(self, timeout: float | None) -> Reply | None:
        """Return the next reply, or ``None`` after the last; wait ``timeout`` seconds at most."""


class AsyncCall(Cancellable, Protocol):
    """A request in flight, on asyncio."""

    async def read(self, timeout: float | None) -> Reply | None:
        """Return the next reply, or ``None`` after the last; wait ``timeout`` seconds at most."""


def too_late(what: str, url: str, timeout: float) -> RequestTimeoutError:
    """The error of an answer that took too long."""
    return RequestTimeoutError(
        f"no {what} from {url} in {timeout:g} s",
        status="DEADLINE_EXCEEDED",
        hint="raise the timeout, or lower max_tokens; a long queue delays the first piece",
    )


def grpc_request(model: str, version: str, fields: Fields) -> Any:
    """Build the protobuf message of a request."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        datatype = DATATYPES[name]
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        if datatype == "BYTES":
            values = [text.encode() for text in values]
        getattr(tensor.contents, _CONTENTS[datatype]).extend(values)
    return request


def grpc_reply(message: Any) -> Reply:
    """Read a message of the stream that tells no error."""
    from tritonclient.grpc import InferResult

    result = InferResult(message.infer_response)
    outputs: dict[str, Any] = {}
    for output in message.infer_response.outputs:
        values = result.as_numpy(output.name).tolist()
        lone = not output.name.endswith(("_ids", "_probs"))
        texts = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in values]
        outputs[output.name] = texts[0] if lone and texts else texts
    return Reply.from_outputs(outputs)


class _GrpcReplies:
    """What the two gRPC calls make of messages and errors."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._begun = False

    def _reply(self, message: Any) -> Reply | None:
        """What a message of the stream holds; None after the last."""
        if message is None:
            return None
        if error := message.error_message:
            failed = InferenceServerException(error, status=stream_status(error, begun=self._begun))
            raise translate(failed, url=self._url, timeout=self._timeout)
        self._begun = True
        return grpc_reply(message)

    def _translated(self, error: Exception) -> Exception:
        code = getattr(error, "code", None)
        if isinstance(error, ClientError) or not callable(code):
            return translate(error, url=self._url, timeout=self._timeout)
        status, details = str(code()), error.details()  # type: ignore[attr-defined]  # gRPC's errors have it
        if status.endswith("DEADLINE_EXCEEDED"):
            return too_late("whole answer", self._url, self._timeout)
        failed = InferenceServerException(details, status=status)
        return translate(failed, url=self._url, timeout=self._timeout)


class GrpcCall(_GrpcReplies):
    """A blocking stream of one request."""

    def __init__(self, stub: Any, headers: Mapping[str, str], request: Any, url: str, timeout: float) -> None:
        """Send the request."""
        super().__init__(url, timeout)
        metadata = tuple(headers.items())
        self._call = stub.ModelStreamInfer(iter((request,)), metadata=metadata, timeout=timeout)

    def read(self, timeout: float | None) -> Reply | None:
        """Return the next reply, or ``None`` after the last; wait ``timeout`` seconds at most."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._call.cancel()

        # grpcio's iterator cannot wait for a while only.
        timer = threading.Timer(timeout, expire) if timeout is not None else None
        if timer:
            timer.start()
        try:
            message = next(self._call, None)
            if message is not None and message.error_message:
                # To its end: Triton 2.51 keeps for ever a call that is cancelled with its last response.
                for _ in self._call:
                    pass
        except Exception as error:
            if expired.is_set() and timeout is not None:
                raise too_late("first piece", self._url, timeout) from error
            raise self._translated(error) from error
        finally:
            if timer:
                timer.cancel()
        return self._reply(message)

    def cancel(self) -> None:
        """Have the server stop. Does not block, and does nothing after the end."""
        self._call.cancel()


class AsyncGrpcCall(_GrpcReplies):
    """The same on asyncio."""

    def __init__(self, stub: Any, headers: Mapping[str, str], request: Any, url: str, timeout: float) -> None:
        """Send the request."""
        super().__init__(url, timeout)
        metadata = tuple(headers.items())
        self._call = stub.ModelStreamInfer(iter((request,)), metadata=metadata, timeout=timeout)
        self._messages = aiter(self._call)

    async def read(self, timeout: float | None) -> Reply | None:
        """Return the next reply, or ``None`` after the last; wait ``timeout`` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                message = await anext(self._messages, None)
                if message is not None and message.error_message:
                    async for _ in self._messages:  # as in GrpcCall
                        pass
        except TimeoutError as error:
            raise too_late("first piece", self._url, timeout or 0) from error
        except Exception as error:
            raise self._translated(error) from error
        return self._reply(message)

    def cancel(self) -> None:
        """Have the server stop. Does not block, and does nothing after the end."""
        self._call.cancel()


class AsyncHttpCall:
    """A ``generate_stream`` request on asyncio.

    Args:
        client: tritonclient's, whose session and address are used.
        headers: Sent with it.
        path: Of the model, see :func:`http_path`.
        fields: The request.
        url: For messages.
        timeout: Seconds to the end of the answer.
    """

    def __init__(
        self, client: Any, headers: Mapping[str, str], path: str, fields: Fields, url: str, timeout: float
    ) -> None:
        """Keep everything; the first read sends it."""
        self._url = url
        self._timeout = timeout
        self._deadline = asyncio.get_running_loop().time() + timeout
        session = client._stub  # aiohttp's ClientSession
        self._post: Callable[[], Awaitable[Any]] = lambda: session.post(
            f"{client._url}/{path}",
            data=json.dumps({**fields, "stream": True}, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **headers},
            timeout=type(session.timeout)(total=None),  # its own would end the stream
        )
        self._response: Any = None
        self._buffer = b""

    async def read(self, timeout: float | None) -> Reply | None:
        """Return the next reply, or ``None`` after the last; wait ``timeout`` seconds at most."""
        end = self._deadline
        if timeout is not None:
            end = min(end, asyncio.get_running_loop().time() + timeout)
        try:
            async with asyncio.timeout_at(end):
                event = await self._event()
        except TimeoutError as error:
            if end < self._deadline:
                raise too_late("first piece", self._url, timeout or 0) from error
            raise too_late("whole answer", self._url, self._timeout) from error
        except Exception as error:
            raise translate(error, url=self._url, timeout=self._timeout) from error
        if event is None:
            return None
        return Reply.from_outputs(self._parsed(event, ""))

    async def _event(self) -> bytes | None:
        """The next event's data."""
        if self._response is None:
            self._response = await self._post()
            if self._response.status != 200:
                self._parsed(await self._response.read(), str(self._response.status))
        while _EVENT_END not in self._buffer:
            try:
                more: bytes = await self._response.content.readany()
            except RuntimeError as error:  # so aiohttp says that this side has closed the connection
                raise ClientError("the client was closed", status="CANCELLED") from error
            if not more:
                return None
            self._buffer += more
        event, _, self._buffer = self._buffer.partition(_EVENT_END)
        return event

    def _parsed(self, body: bytes, status: str) -> dict[str, Any]:
        """The JSON object of an event or an error's body.

        Raises:
            ClientError: It tells an error, or is no JSON.
        """
        text = body.decode("utf-8", "replace").strip().removeprefix("data:")
        try:
            parsed: dict[str, Any] = json.loads(text)
            message = parsed.get("error", "the server gave no message") if status else parsed.get("error")
        except (ValueError, AttributeError):
            parsed, message = {}, f"this is not what Triton sends: {text[:200]!r}"
        if message is None:
            return parsed
        if status in ("", "400"):
            status = stream_status(message, begun=not status)
        raise translate(InferenceServerException(message, status=status), url=self._url, timeout=0)

    def cancel(self) -> None:
        """Have the server stop. Does not block, and does nothing after the end."""
        if self._response is not None:
            self._response.close()


class HttpCall:
    """Blocking HTTP: an :class:`AsyncHttpCall` on the event loop of the transport's thread."""

    def __init__(
        self, call: AsyncCall, run: Callable[[Any], Any], soon: Callable[[Callable[[], None]], Any]
    ) -> None:
        """Keep the call, how to wait for a coroutine, and how to have a function run there."""
        self._call = call
        self._run = run
        self._soon = soon

    def read(self, timeout: float | None) -> Reply | None:
        """Return the next reply, or ``None`` after the last; wait ``timeout`` seconds at most."""
        try:
            reply: Reply | None = self._run(self._call.read(timeout))
        except CancelledError as error:
            raise ClientError("the client was closed", status="CANCELLED") from error
        return reply

    def cancel(self) -> None:
        """Have the server stop. Does not block, and does nothing after the end."""
        self._soon(self._call.cancel)


def http_path(model: str, version: str) -> str:
    """Path of ``generate_stream`` for a model."""
    chosen = f"/versions/{quote(version, safe='')}" if version else ""
    return f"v2/models/{quote(model, safe='')}{chosen}/generate_stream"
