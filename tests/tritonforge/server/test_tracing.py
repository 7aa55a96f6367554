from __future__ import annotations

import pytest

from tritonforge.errors import UsageError
from tritonforge.server import ServerOptions
from tritonforge.server.tracing import trace_arguments, trace_environment


def test_without_a_collector_nothing_is_said_of_traces() -> None:
    assert trace_arguments(ServerOptions(), {"OTEL_BSP_SCHEDULE_DELAY": "100"}) == []
    assert trace_environment(ServerOptions(), {}) == {}


def test_triton_and_its_backends_send_to_one_collector() -> None:
    options = ServerOptions(otlp_endpoint="http://127.0.0.1:4318/", trace_rate=50)
    arguments = trace_arguments(options, {"OTEL_BSP_SCHEDULE_DELAY": "100"})
    assert "--trace-config=mode=opentelemetry" in arguments
    assert "--trace-config=rate=50" in arguments
    assert "--trace-config=opentelemetry,url=http://127.0.0.1:4318/v1/traces" in arguments
    assert "--trace-config=opentelemetry,bsp_schedule_delay=100" in arguments
    assert trace_environment(options, {}) == {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces",
        "OTEL_SERVICE_NAME": "tritonforge-backends",
    }
    assert trace_environment(options, {"OTEL_SERVICE_NAME": "mine"})["OTEL_SERVICE_NAME"] == "mine"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:4318", "http://u:secret@h", "http://h/?k=secret", "http://h:"]
)
def test_what_is_no_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        trace_arguments(ServerOptions(otlp_endpoint=address), {})
    assert "secret" not in refused.value.what
