"""OpenTelemetry traces of a server: Triton's own, and those of its backends.

Triton traces every request with a ``traceparent`` header, whatever the flag in it says, and of the others one
in ``trace_rate``: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/trace.md
"""

from __future__ import annotations

from collections.abc import Mapping

from tritonforge.errors import UsageError
from tritonforge.otlp import TRACES_PATH, base_url
from tritonforge.server.options import ServerOptions

SERVICE, BACKENDS = "tritonforge-triton", "tritonforge-backends"
ENDPOINT, SERVICE_NAME = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SERVICE_NAME"
SCHEDULE_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
"""Milliseconds after which spans are sent at the latest."""


def trace_arguments(options: ServerOptions, environment: Mapping[str, str]) -> list[str]:
    """Give tritonserver's arguments for traces; none where spans go nowhere.

    A collector's key never is an argument: Triton takes ``OTEL_EXPORTER_OTLP_HEADERS`` from the environment.

    Args:
        options: Where spans go, and of how many requests.
        environment: OpenTelemetry's own variable of the delay is passed on; Triton does not read it.

    Raises:
        UsageError: The address of the collector is none.
    """
    if options.otlp_endpoint is None:
        return []
    settings = [
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"rate={options.trace_rate}",
        f"opentelemetry,url={_traces_url(options.otlp_endpoint)}",
        f"opentelemetry,resource=service.name={SERVICE}",
    ]
    if environment.get(SCHEDULE_DELAY):
        settings.append(f"opentelemetry,bsp_schedule_delay={environment[SCHEDULE_DELAY]}")
    return [f"--trace-config={setting}" for setting in settings]


def trace_environment(options: ServerOptions, environment: Mapping[str, str]) -> dict[str, str]:
    """Give the variables by which the backends send their spans to the same place.

    Raises:
        UsageError: The address of the collector is none.
    """
    if options.otlp_endpoint is None:
        return {}
    return {
        ENDPOINT: _traces_url(options.otlp_endpoint),
        SERVICE_NAME: environment.get(SERVICE_NAME, BACKENDS),
    }


def _traces_url(value: str) -> str:
    try:
        return base_url(value) + TRACES_PATH
    except ValueError as error:
        # Not repeated: it may hold a key.
        raise UsageError(
            f"the address of the collector is none: {error}",
            where="--otlp-endpoint",
            mend="give --otlp-endpoint http://127.0.0.1:4318; a key belongs into OTEL_EXPORTER_OTLP_HEADERS",
        ) from error
