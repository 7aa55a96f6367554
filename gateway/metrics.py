"""What the facade counts, for Prometheus.

Label values are bounded: paths are those of routes, models those that are served, codes those of HTTP, gRPC
and :mod:`gateway.errors`. Processes of one gateway add up through ``PROMETHEUS_MULTIPROC_DIR``, which the
supervisor sets where there are several.

Histograms carry the id of a sampled trace as exemplar, in the OpenMetrics format alone, which Prometheus asks
for: https://prometheus.io/docs/specs/om/open_metrics_spec/#exemplars
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeVar

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    values,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.errors import ApiError
from gateway.tracing import current_trace_id

M = TypeVar("M", Counter, Gauge, Histogram)

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_TOKENS = tuple(2**n for n in range(3, 16))

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no rule reads


def _keep_exemplars(kind: type[Any]) -> type[Any]:
    """Values that are shared by processes keep no exemplars; of these, each process keeps its own."""

    class Value(kind):  # type: ignore[misc]  # chosen at run time
        _exemplar = None

        def set_exemplar(self, exemplar: Any) -> None:
            self._exemplar = exemplar

        def get_exemplar(self) -> Any:
            return self._exemplar

    return Value


if os.environ.get(MULTIPROCESS_VARIABLE):
    values.ValueClass = _keep_exemplars(values.ValueClass)

REQUESTS = Histogram(
    "tritonforge_gateway_request_duration_seconds",
    "Time from a request to the end of its answer, in the facade",
    ("protocol", "method", "code"),
    buckets=_SECONDS,
)
IN_FLIGHT = Gauge(
    "tritonforge_gateway_requests_in_flight",
    "Requests that the facade works on",
    ("protocol",),
    multiprocess_mode="livesum",
)
MODEL_REQUESTS = Counter(
    "tritonforge_gateway_model_requests_total",
    "Requests to a model that is served, by how they ended: ok, or the code of the error",
    ("model", "code"),
)
MODEL_DURATION = Histogram(
    "tritonforge_gateway_model_duration_seconds",
    "Time from asking for a model's answer to the end of it, whether computed or kept; without failures",
    ("model", "task"),
    buckets=_SECONDS,
)
SERVER_DURATION = Histogram(
    "tritonforge_gateway_server_duration_seconds",
    "Time of one call to the servers of an encoder: the way there, Triton's queue, and compute",
    ("model",),
    buckets=_SECONDS,
)
FIRST_TOKEN = Histogram(
    "tritonforge_gateway_time_to_first_token_seconds",
    "Time from asking a generator to the first part of its answer",
    ("model",),
    buckets=_SECONDS,
)
PER_TOKEN = Histogram(
    "tritonforge_gateway_time_per_output_token_seconds",
    "Mean time between the tokens of a streamed answer",
    ("model",),
    buckets=_TOKEN_SECONDS,
)
TOKENS = Counter(
    "tritonforge_gateway_tokens_total",
    "Tokens of texts read and of answers generated, as far as models tell",
    ("model", "kind"),
)
REQUEST_TOKENS = Histogram(
    "tritonforge_gateway_request_tokens", "The same, for each request", ("model", "kind"), buckets=_TOKENS
)


@cache
def child(metric: M, *labels: str) -> M:
    """The series of a metric with these labels; ``labels()`` would take 2 us each time to find it."""
    return metric.labels(*labels)


def observe(protocol: str, method: str, code: str, seconds: float) -> None:
    """Count one request.

    Args:
        protocol: ``http``, ``websocket`` or ``grpc``.
        method: Route or method, never a path that a caller made up.
        code: HTTP or gRPC status.
        seconds: From its beginning to its end.
    """
    child(REQUESTS, protocol, method, code).observe(seconds, exemplar())


def count_tokens(model: str, kind: str, tokens: int) -> None:
    """Count the tokens of one request.

    Args:
        model: One that is served.
        kind: ``prompt`` or ``completion``.
        tokens: How many.
    """
    child(TOKENS, model, kind).inc(tokens)
    child(REQUEST_TOKENS, model, kind).observe(tokens, exemplar())


def exemplar() -> dict[str, str] | None:
    """What leads from a measurement to the request's trace; None where that is not sampled."""
    trace_id = current_trace_id()
    return {"trace_id": trace_id} if trace_id else None


class Answering:
    """Within it a served model answers one request; how that ends is counted.

    Args:
        model: Its name, as served.
        task: What it is for.

    Attributes:
        complete: Set where the answer is complete before the end, at which a caller may leave.
    """

    __slots__ = ("_model", "_start", "_task", "complete")

    def __init__(self, model: str, task: str) -> None:
        """Note the time."""
        self._model = model
        self._task = task
        self._start = time.perf_counter()
        self.complete = False

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count."""
        if error is None or self.complete:
            code = "ok"
            seconds = time.perf_counter() - self._start
            child(MODEL_DURATION, self._model, self._task).observe(seconds, exemplar())
        elif isinstance(error, ApiError):
            code = error.code.name
        else:
            code = "internal" if isinstance(error, Exception) else "cancelled"
        child(MODEL_REQUESTS, self._model, code).inc()


class Streaming(Answering):
    """The same for an answer of a generator that comes in parts."""

    __slots__ = ("_first", "_last", "_later")

    def __init__(self, model: str, task: str) -> None:
        """Note the time."""
        super().__init__(model, task)
        self._first = self._last = 0.0
        self._later = 0

    def came(self, tokens: int) -> None:
        """Note that so many tokens came; none is no news."""
        if not tokens:
            return
        now = time.perf_counter()
        if self._first:
            self._last = now
            self._later += tokens
        else:
            self._first = now
            child(FIRST_TOKEN, self._model).observe(now - self._start, exemplar())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count."""
        if self._later:
            child(PER_TOKEN, self._model).observe((self._last - self._first) / self._later, exemplar())
        super().__exit__(kind, error, trace)


class _Summed(MultiProcessCollector):
    """Sums over all processes, with the exemplars of this one.

    Prometheus reaches one process or another, so that in time it gets the exemplars of all.
    """

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        own = {
            (sample.name, frozenset(sample.labels.items())): sample.exemplar
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.exemplar
        }
        for metric in super().collect():  # type: ignore[no-untyped-call]  # the library is untyped
            metric.samples = [
                sample._replace(exemplar=own.get((sample.name, frozenset(sample.labels.items()))))
                for sample in metric.samples
            ]
            yield metric


def exposition(accept: str = "") -> tuple[bytes, str]:
    """All metrics, and their media type.

    Args:
        accept: The header of who asks: OpenMetrics for those that take it, else Prometheus' text format.
    """
    registry = REGISTRY
    if os.environ.get(MULTIPROCESS_VARIABLE):
        registry = CollectorRegistry()
        _Summed(registry)  # type: ignore[no-untyped-call]  # the library is untyped
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type
