"""Receives spans as a collector does: OTLP/HTTP, protobuf and JSON, on a loopback address.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. Triton posts JSON, Envoy and OpenTelemetry's SDK protobuf.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tritonforge.errors import ServerError

PATH = "/v1/traces"
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"
_LARGEST = 64 << 20
_POLL_S = 0.05
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})

Value = str | bool | int | float | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Span:
    """A span, as it was sent.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_id: Of the parent; empty: a root.
        service: The resource's ``service.name``.
        name: What was done.
        start: Nanoseconds since 1970.
        end: Nanoseconds since 1970.
        attributes: As they were set.
        events: Name and time (nanoseconds since 1970) of each.
        links: Trace and span ids of spans that belong to it otherwise than by descent.
        failed: Whether its status is an error.
    """

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    start: int
    end: int
    attributes: dict[str, Value] = field(default_factory=dict)
    events: tuple[tuple[str, int], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    failed: bool = False


def parse(body: bytes, media_type: str) -> list[Span]:
    """Read the body of an export.

    Args:
        body: Uncompressed.
        media_type: ``application/json`` or ``application/x-protobuf``.

    Raises:
        ValueError: It is no such message.
    """
    try:
        if media_type == _JSON:
            # JSON of OTLP is that of protobuf, but for the ids, which are hexadecimal.
            data = json.loads(body, object_hook=_with_base64_ids)
            message = ParseDict(data, ExportTraceServiceRequest(), ignore_unknown_fields=True)
        else:
            message = ExportTraceServiceRequest.FromString(body)
    except (DecodeError, ParseError, ValueError) as error:
        raise ValueError(f"no ExportTraceServiceRequest: {error}") from error
    return list(_spans(message))


def _with_base64_ids(entry: dict[str, Any]) -> dict[str, Any]:
    for key in _IDS & entry.keys():
        entry[key] = base64.b64encode(bytes.fromhex(entry[key])).decode()
    return entry


def _spans(message: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in message.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    # Triton writes no parent as sixteen zeros.
                    span.parent_span_id.hex() if any(span.parent_span_id) else "",
                    service,
                    span.name,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    tuple((event.name, event.time_unix_nano) for event in span.events),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    span.status.code == span.status.STATUS_CODE_ERROR,
                )


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    found: Value = getattr(value, kind)
    return found


class Receiver:
    """A collector that keeps what it gets in memory; a context manager.

    Args:
        host: Address to listen on.
        port: 0: a free one.
        headers: That every export must have, lower case; others are answered 401.

    Raises:
        ServerError: It cannot listen there.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, headers: dict[str, str] | None = None
    ) -> None:
        """Listen, and serve from a thread of its own."""
        self._spans: list[Span] = []
        self._came = threading.Condition()
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(self._take, headers or {}))
        except OSError as error:
            raise ServerError(
                f"cannot listen: {error.strerror}", where=f"{host}:{port}", mend="choose another port, or 0"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="otlp", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Receiver:
        """The receiver itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self.close()

    @property
    def url(self) -> str:
        """Base URL, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` takes it; spans go to ``/v1/traces`` below."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def spans(self) -> list[Span]:
        """What has come so far."""
        with self._came:
            return list(self._spans)

    def of(self, trace_id: str) -> list[Span]:
        """Spans of a trace that have come so far."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait(self, enough: Callable[[list[Span]], bool], timeout_s: float = 10.0) -> list[Span]:
        """Wait until enough has come.

        Args:
            enough: Told all spans each time that some came.
            timeout_s: Longest wait.

        Returns:
            All that has come; not enough, if the time is over.
        """
        deadline = time.monotonic() + timeout_s
        with self._came:
            while not enough(self._spans):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._came.wait(left)
            return list(self._spans)

    def close(self) -> None:
        """Stop listening; what came is kept."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, spans: list[Span]) -> None:
        with self._came:
            self._spans += spans
            self._came.notify_all()


def _handler(take: Callable[[list[Span]], None], headers: dict[str, str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """One export."""
            body = self._body()
            if body is None:
                self.close_connection = True
                self._answer(413, b"too large", "text/plain")
                return
            media_type = self.headers.get_content_type()
            if self.path != PATH:
                self._answer(404, f"POST {PATH}".encode(), "text/plain")
            elif any(self.headers.get(name) != value for name, value in headers.items()):
                self._answer(401, b"a header is missing, or not as it should be", "text/plain")
            elif media_type not in (_JSON, _PROTOBUF):
                self._answer(415, f"{_JSON} or {_PROTOBUF}".encode(), "text/plain")
            else:
                self._export(body, media_type)

        def _body(self) -> bytes | None:
            """The request's body, also where it comes in chunks, as Envoy sends it; None: it is too large."""
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                length = int(self.headers.get("content-length") or 0)
                return self.rfile.read(length) if length <= _LARGEST else None
            body = b""
            while size := int(self.rfile.readline(), 16):
                if len(body) + size > _LARGEST:
                    return None
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _export(self, body: bytes, media_type: str) -> None:
            try:
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                spans = parse(body, media_type)
            except (ValueError, OSError, EOFError, zlib.error) as error:
                self._answer(400, str(error).encode(), "text/plain")
                return
            take(spans)
            answer = ExportTraceServiceResponse().SerializeToString() if media_type == _PROTOBUF else b"{}"
            self._answer(200, answer, media_type)

        def _answer(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Handler
