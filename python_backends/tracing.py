"""Spans of the backends, below those of Triton, for requests that Triton traces.

Triton hands the context of a traced request to the stub (``request.trace().get_context()``), and None for
all others. Spans are made once their request is answered, with the times noted meanwhile, and by a thread of
their own, so that a traced request delays neither itself nor its batch. Where they go is said by
OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``..._HEADERS``, ``OTEL_SERVICE_NAME``);
without an endpoint, or without the package ``opentelemetry-exporter-otlp-proto-http``, there is no tracer,
and nothing is asked for.

No attribute holds a text: counts, names and times only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span

REQUESTS = "tritonforge.batch.requests"
BATCH = "tritonforge.batch.id"
MODEL = "tritonforge.model"
ERROR = "error.type"
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADER, _SAMPLED = "traceparent", "-01"
_MOST_WAITING = 4096
_CLOSE_S = 5.0

Attributes = Mapping[str, str | bool | int | float]


@dataclass(slots=True)
class Stage:
    """What was done from one time to another.

    Attributes:
        name: The span's name.
        start: Nanoseconds since 1970.
        end: The same.
        attributes: Counts and names.
        failed: Which kind of error; empty for none.
        stages: What was done within.
    """

    name: str
    start: int
    end: int
    attributes: Attributes = field(default_factory=dict)
    failed: str = ""
    stages: Sequence[Stage] = ()


class Tracer:
    """Makes spans of stages, in the background.

    Args:
        provider: Of OpenTelemetry's SDK.
        model: An attribute of all of them.
        warn: Told what goes wrong.
    """

    def __init__(self, provider: TracerProvider, model: str, warn: Callable[[str], None]) -> None:
        """Start the thread."""
        self._warn = warn
        self._provider = provider
        self._model = model
        self._tracer = provider.get_tracer("tritonforge")
        self._batches = itertools.count(1)
        self._work: queue.Queue[Callable[[], object] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def contexts(self, requests: Sequence[Any]) -> dict[int, str]:
        """Contexts of those that Triton traces, by their place among the requests."""
        contexts = ((index, self.context(request)) for index, request in enumerate(requests))
        return {index: context for index, context in contexts if context is not None}

    def context(self, request: Any) -> str | None:
        """Context of a request; None where nobody traces it.

        Triton 2.51 now and then overlooks the header of a gRPC call: it reads it as if it ended with a zero
        (``GrpcServerCarrier``). Where headers are passed on as parameters, as by `tritonforge serve`, it is
        there, and these spans are below the caller's.
        """
        context: str | None = request.trace().get_context()
        if context:
            return context
        parameters: str = request.parameters()
        if _HEADER not in parameters:
            return None
        header = str(json.loads(parameters).get(_HEADER, ""))
        return json.dumps({_HEADER: header}) if header.endswith(_SAMPLED) else None

    def record(self, context: str, stage: Stage) -> None:
        """Give a traced request its spans; made later, in another thread.

        Args:
            context: As Triton gave it.
            stage: What was done for it.
        """
        self._later(lambda: self._make(stage, _parent(context), more={MODEL: self._model}))

    def record_batch(self, contexts: Mapping[int, str], stage: Callable[[int], Stage]) -> None:
        """Give each traced request of a batch its spans.

        They carry the number of their batch, and all but the first are linked to the first.

        Args:
            contexts: As :meth:`contexts` gave them.
            stage: What was done for the request at a place; called later, in another thread.
        """
        if not contexts:
            return
        more: Attributes = {BATCH: f"{os.getpid()}-{next(self._batches)}", MODEL: self._model}

        def work() -> None:
            links: list[Link] = []
            for index, context in contexts.items():
                span = self._make(stage(index), _parent(context), links, more)
                if not links:
                    links = _link(span)

        self._later(work)

    def close(self) -> None:
        """Send what is left."""
        self._work.put(None)
        self._thread.join(_CLOSE_S)
        self._provider.shutdown()

    def _later(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(queue.Full):  # spans are lost before requests are slowed down
            self._work.put_nowait(work)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception as error:
                self._warn(f"a span is lost: {type(error).__name__}: {error}")

    def _make(
        self, stage: Stage, context: Context, links: Sequence[Link] = (), more: Attributes | None = None
    ) -> Span:
        from opentelemetry.trace import StatusCode, set_span_in_context

        span = self._tracer.start_span(
            stage.name,
            context,
            attributes={**stage.attributes, **(more or {})},
            links=links,
            start_time=stage.start,
        )
        if stage.failed:
            span.set_status(StatusCode.ERROR)
            span.set_attribute(ERROR, stage.failed)
        inner = set_span_in_context(span)
        for each in stage.stages:
            self._make(each, inner)
        span.end(stage.end)
        return span


def start_tracer(model: str, warn: Callable[[str], None]) -> Tracer | None:
    """A tracer where spans go somewhere; None otherwise, which costs requests nothing.

    Args:
        model: Whose spans.
        warn: Told what goes wrong.
    """
    if not any(os.environ.get(name) for name in _VARIABLES):
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ImportError as error:
        warn(f"no spans: {error}; pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http")
        return None
    # Whom to trace was decided before: Triton gives no context otherwise.
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider, model, warn)


def _parent(context: str) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(json.loads(context))


def _link(span: Span) -> list[Link]:
    from opentelemetry.trace import Link

    return [Link(span.get_span_context())]
