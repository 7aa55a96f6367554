"""Spans are read in both forms of OTLP/HTTP, and what is no export is refused."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, StatusCode

from observability.otlp import Receiver

# As tritonserver 2.51 posts it, shortened.
TRITON: dict[str, Any] = {
    "resourceSpans": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "triton"}}]},
            "scopeSpans": [
                {
                    "scope": {"name": "triton-server"},
                    "spans": [
                        {
                            "traceId": "4bf92f3577b34da6a3ce929d0e0e4731",
                            "spanId": "b86774f3e890789d",
                            "parentSpanId": "0000000000000000",
                            "name": "embed",
                            "kind": 1,
                            "startTimeUnixNano": "1795643415776975569",
                            "endTimeUnixNano": "1795643415779227029",
                            "attributes": [{"key": "triton.model_version", "value": {"intValue": "1"}}],
                            "events": [{"name": "QUEUE_START", "timeUnixNano": "1795643415776994537"}],
                            "status": {},
                        }
                    ],
                }
            ],
        }
    ]
}


def test_json_as_triton_sends_it() -> None:
    with Receiver() as receiver:
        httpx.post(f"{receiver.url}/v1/traces", json=TRITON, timeout=60).raise_for_status()
        (span,) = receiver.spans
    assert (span.trace_id, span.span_id) == ("4bf92f3577b34da6a3ce929d0e0e4731", "b86774f3e890789d")
    assert span.parent_id == ""
    assert span.service == "triton"
    assert span.end - span.start == 2_251_460
    assert span.attributes == {"triton.model_version": 1}
    assert span.events == (("QUEUE_START", 1795643415776994537),)


def test_protobuf_as_the_sdk_sends_it() -> None:
    with Receiver() as receiver:
        exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces", compression=Compression.Gzip)
        provider = TracerProvider(resource=Resource.create({"service.name": "sdk"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("outer") as outer:
            link = Link(outer.get_span_context())
            inner = tracer.start_span(
                "inner", attributes={"n": 2, "list": ["a", "b"], "x": 0.5}, links=[link]
            )
            inner.set_status(StatusCode.ERROR)
            inner.end()
        first, second = receiver.spans
        provider.shutdown()
    assert (first.name, second.name) == ("inner", "outer")
    assert first.parent_id == second.span_id
    assert first.attributes == {"n": 2, "list": ["a", "b"], "x": 0.5}
    assert first.links == ((second.trace_id, second.span_id),)
    assert first.failed
    assert not second.failed


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/traces", b"{", {"content-type": "application/json"}, 400),
        ("/v1/traces", b'{"resourceSpans": 3}', {"content-type": "application/json"}, 400),
        ("/v1/traces", b"\xff\xff", {"content-type": "application/x-protobuf"}, 400),
        ("/v1/traces", b"x", {"content-type": "application/json", "content-encoding": "gzip"}, 400),
        ("/v1/traces", gzip.compress(b"{", mtime=0), {"content-type": "application/json"}, 400),
        ("/v1/traces", b"{}", {"content-type": "text/plain"}, 415),
        ("/v1/metrics", b"{}", {"content-type": "application/json"}, 404),
    ],
)
def test_what_is_no_export_is_refused(path: str, body: bytes, headers: dict[str, str], status: int) -> None:
    with Receiver() as receiver:
        answer = httpx.post(f"{receiver.url}{path}", content=body, headers=headers, timeout=60)
        assert answer.status_code == status
        assert receiver.spans == []


def test_without_the_key_nothing_is_taken() -> None:
    with Receiver(headers={"x-key": "sesame"}) as receiver:
        assert httpx.post(f"{receiver.url}/v1/traces", json=TRITON, timeout=60).status_code == 401
        assert receiver.spans == []
        answer = httpx.post(f"{receiver.url}/v1/traces", json=TRITON, headers={"x-key": "sesame"}, timeout=60)
        assert answer.status_code == 200
        assert len(receiver.spans) == 1
