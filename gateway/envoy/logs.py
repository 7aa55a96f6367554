"""What Envoy logs: a line for each request, and its own events; with the fields of the other processes.

And which ids of requests are taken from callers: they stand in every log.
"""

from __future__ import annotations

from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy.local_replies import METADATA
from gateway.envoy.typed import extension, header
from gateway.identity import REQUEST_ID_HEADER

_TIME = "%Y-%m-%dT%T.%e%z"
_GOOD_ID, _LONGEST_ID = "^[0-9A-Za-z._:/+=-]+$", 128
_KEPT = "x-tritonforge-request-id"

_FIELDS = {
    "time": "%START_TIME%",
    "level": "info",
    "component": "envoy",
    "logger": "access",
    "event": "request",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
    "model": f"%DYNAMIC_METADATA({METADATA}:model)%",
    "subject": "%REQ(X-TRITONFORGE-SUBJECT)%",
    "address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "protocol": "%PROTOCOL%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "code": f"%DYNAMIC_METADATA({METADATA}:code)%",
    "grpc_status": "%GRPC_STATUS_NUMBER%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "ms": "%DURATION%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
}
_TEXT = (
    "%START_TIME% [info     ] request  %REQ(:METHOD)% %PATH(NQ)% %RESPONSE_CODE% %RESPONSE_FLAGS% "
    "%DURATION% ms request_id=%REQ(X-REQUEST-ID)% trace_id=%TRACE_ID% subject=%REQ(X-TRITONFORGE-SUBJECT)%\n"
)


def access_log(config: GatewayConfig) -> list[dict[str, Any]]:
    """One line a request, on standard output; no query string, no text, no token.

    Envoy writes many of them at once, and could else break into a line of another process.
    """
    if not config.logs.access:
        return []
    form: dict[str, Any] = (
        {"text_format_source": {"inline_string": _TEXT}}
        if config.logs.style == "text"
        else {"json_format": _FIELDS, "omit_empty_values": True}
    )
    kind = "extensions.access_loggers.stream.v3.StdoutAccessLog"
    return [extension("envoy.access_loggers.stdout", kind, log_format=form)]


def application_log(config: GatewayConfig) -> dict[str, Any]:
    """Members of the bootstrap: the form of Envoy's own events."""
    if config.logs.style == "text":
        return {}
    fields = {"time": _TIME, "level": "%l", "component": "envoy", "logger": "%n", "event": "%j"}
    return {"application_log_config": {"log_format": {"json_format": fields}}}


def request_ids() -> dict[str, Any]:
    """Members of the door's connection manager: a caller's own id is kept, and told in the answer."""
    return {
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # As it came: Envoy would else write its decision on tracing into an id that is a UUID.
        "request_id_extension": {
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
                "use_request_id_for_trace_sampling": False,
            }
        },
    }


def good_request_ids() -> list[dict[str, Any]]:
    """Mutations of a request's headers before anything reads them: an id that is long or odd is dropped.

    Envoy then makes one. What is kept can end no line and no field of any log.
    """
    given = f"request.headers['{REQUEST_ID_HEADER}']"
    good = f"size({given}) <= {_LONGEST_ID} && {given}.matches('{_GOOD_ID}')"
    kept = f"%CEL({good} ? {given} : '')%"
    return [
        {"append": header(_KEPT, kept)},
        {"remove": REQUEST_ID_HEADER},
        {"append": header(REQUEST_ID_HEADER, f"%REQ({_KEPT})%")},
        {"remove": _KEPT},
    ]
