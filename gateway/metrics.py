"""What the facade counts, for Prometheus.

Label values are bounded: paths are those of routes, models those that are served. Processes of one gateway
add up through ``PROMETHEUS_MULTIPROC_DIR``, which the supervisor sets where there are several.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

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
FIRST_TOKEN = Histogram(
    "tritonforge_gateway_time_to_first_token_seconds",
    "Time from asking a generator to the first part of its answer",
    ("model",),
    buckets=_SECONDS,
)
TOKENS = Counter(
    "tritonforge_gateway_tokens_total",
    "Tokens of texts read and of answers generated, as far as models tell",
    ("model", "kind"),
)


def observe(protocol: str, method: str, code: str, seconds: float) -> None:
    """Count one request.

    Args:
        protocol: ``http``, ``websocket`` or ``grpc``.
        method: Route or method, never a path that a caller made up.
        code: HTTP or gRPC status.
        seconds: From its beginning to its end.
    """
    REQUESTS.labels(protocol, method, code).observe(seconds)


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus' text form, and its media type."""
    registry = REGISTRY
    if os.environ.get(MULTIPROCESS_VARIABLE):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
