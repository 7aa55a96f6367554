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
_ASIDE = "x-tritonforge-request-id"
REQUEST_ID = f"%REQ({_ASIDE}?{REQUEST_ID_HEADER})%"

_FIELDS = {
    "time": "%START_TIME%",
    "level": "info",
    "component": "envoy",
    "logger": "access",
    "event": "request",
    "request_id": REQUEST_ID,
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
    f"%DURATION% ms request_id={REQUEST_ID} trace_id=%TRACE_ID% subject=%REQ(X-TRITONFORGE-SUBJECT)%\n"
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


def keep_callers_id() -> list[dict[str, Any]]:
    """Mutations of a request's headers before anything reads them: a caller's id is set aside, if it is good.

    One that is long or odd is dropped, so what is kept can end no line and no field of any log. Envoy makes
    an id of its own, and draws by it which requests are traced: no caller can choose that.
    """
    given = f"request.headers['{REQUEST_ID_HEADER}']"
    good = f"size({given}) <= {_LONGEST_ID} && {given}.matches('{_GOOD_ID}')"
    return [
        {"append": header(_ASIDE, f"%CEL({good} ? {given} : '')%")},
        {"remove": REQUEST_ID_HEADER},
    ]


def pass_request_id() -> list[dict[str, Any]]:
    """What is set on a request that goes on: the caller's id; where there is none this changes nothing."""
    return [header(REQUEST_ID_HEADER, f"%REQ({_ASIDE})%")]


def tell_request_id() -> dict[str, Any]:
    """A filter: every answer names its request."""
    return extension(
        "tritonforge.request_id",
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"response_mutations": [{"append": header(REQUEST_ID_HEADER, REQUEST_ID)}]},
    )
