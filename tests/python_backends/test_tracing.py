"""Spans of batches as a collector gets them, and backends that have nothing to make them with."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from observability.otlp import Receiver
from python_backends.tracing import Stage, start_tracer

TRACES = ("4bf92f3577b34da6a3ce929d0e0e4736", "aaf92f3577b34da6a3ce929d0e0e4736")
PARENT = "00f067aa0ba902b7"


def context(trace_id: str) -> str:
    """As Triton gives it."""
    return json.dumps({"traceparent": f"00-{trace_id}-{PARENT}-01", "tracestate": ""})


def never(message: str) -> None:
    raise AssertionError(message)


def test_without_a_collector_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert start_tracer("m", never) is None


def test_requests_of_a_batch_have_their_own_spans_and_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "backends")
        tracer = start_tracer("engine", never)
        assert tracer is not None
        end = time.time_ns()
        forward = Stage("forward", end - 500, end)

        def stage(index: int) -> Stage:
            return Stage("encode", end - 1000, end, {"tritonforge.tokens": index}, "", [forward])

        tracer.record_batch({0: context(TRACES[0]), 3: context(TRACES[1])}, stage)
        tracer.record(context(TRACES[0]), Stage("generate", end - 1000, end, failed="engine"))
        tracer.close()
        first, second = ([span for span in receiver.of(trace) if span.name == "encode"] for trace in TRACES)
        (generate,) = (span for span in receiver.spans if span.name == "generate")
        forwards = [span for span in receiver.spans if span.name == "forward"]
    assert first[0].parent_id == second[0].parent_id == PARENT
    assert (first[0].start, first[0].end) == (second[0].start, second[0].end) == (end - 1000, end)
    assert [span.attributes["tritonforge.tokens"] for span in (*first, *second)] == [0, 3]
    assert first[0].attributes["tritonforge.batch.id"] == second[0].attributes["tritonforge.batch.id"]
    assert first[0].links == ()
    assert second[0].links == ((TRACES[0], first[0].span_id),)
    assert {span.parent_id for span in forwards} == {first[0].span_id, second[0].span_id}
    assert first[0].service == "backends"
    assert first[0].attributes["tritonforge.model"] == "engine"
    assert generate.failed
    assert generate.attributes["error.type"] == "engine"


_WITHOUT_THE_PACKAGE = """
import sys
sys.modules["opentelemetry"] = None
from python_backends.tracing import start_tracer
import python_backends.encoder.tracing, python_backends.tokenizer.tracing, python_backends.generator.tracing
told = []
assert start_tracer("m", told.append) is None
print(told[0])
"""


def test_backends_load_without_opentelemetry_and_say_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THE_PACKAGE],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install opentelemetry-sdk" in done.stdout
