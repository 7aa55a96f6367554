"""The answers that Envoy gives itself, in the same words as the facade's.

Over HTTP a problem (RFC 9457), below ``/v1`` with OpenAI's member ``error`` too; over gRPC a status with
``google.rpc.ErrorInfo``. Where ``authorize.lua`` refuses a request, it says why in Envoy's dynamic metadata;
that is put into the same form here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from gateway.config import GatewayConfig
from gateway.envoy.typed import extension, header
from gateway.errors import CODES, Code

METADATA = "tritonforge"
"""Namespace of the dynamic metadata in which the Lua filters leave what others need."""
_DOMAIN = "tritonforge"
_MEDIA_TYPE = "application/problem+json"
_BODY = "%LOCAL_REPLY_BODY%"
_DETAILS = "Envoy refused the request: %RESPONSE_CODE_DETAILS%"
_Filter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Reply:
    """What one status of Envoy means.

    Attributes:
        status: Envoy's own, which the code's replaces.
        code: Ours.
        detail: A sentence, or what Envoy says.
        mend: What the caller can do.
        when: Part of Envoy's reason, where the status alone does not tell.
        retry_after_s: Of the header Retry-After.
    """

    status: int
    code: str
    detail: str
    mend: str
    when: str = ""
    retry_after_s: int | None = None


def _replies(config: GatewayConfig) -> tuple[_Reply, ...]:
    retry = config.resilience.retry_after_s
    size = config.limits.max_body_bytes
    token = "send a valid bearer token or API key"
    busy = "as many requests as may be are in flight"
    return (
        _Reply(400, "invalid_value", _DETAILS, "send well-formed HTTP, and a path without escaped slashes"),
        _Reply(401, "unauthenticated", _BODY, token),
        # What jwt_authn says to a token for another audience.
        _Reply(403, "unauthenticated", _BODY, token, when="jwt_authn"),
        _Reply(403, "not_found", "no WebSocket is served at this path", "use /ws/generate", when="upgrade"),
        _Reply(403, "forbidden", _DETAILS, "ask for other scopes"),
        _Reply(404, "not_found", "there is nothing at this path", "GET /openapi.json lists every path"),
        _Reply(405, "method_not_allowed", "the path takes GET and HEAD only", "send GET"),
        _Reply(408, "request_timeout", "the request took too long to arrive", "send it whole and at once"),
        _Reply(413, "body_too_large", f"the body has more than {size} bytes", "send less at once"),
        _Reply(426, "invalid_value", "this version of HTTP is not spoken here", "use HTTP/1.1 or HTTP/2"),
        # Buckets are filled every second.
        _Reply(429, "rate_limited", "more requests than the limit lets pass", "send fewer", retry_after_s=1),
        _Reply(431, "headers_too_large", "the headers are too many or too long", "send fewer"),
        _Reply(500, "internal", _DETAILS, "report it"),
        _Reply(502, "unavailable", "a server's answer broke off", "try again", retry_after_s=retry),
        _Reply(503, "overloaded", busy, "try again later", when="overflow", retry_after_s=retry),
        _Reply(503, "overloaded", busy, "try again later", when="concurrency_limit", retry_after_s=retry),
        _Reply(503, "unavailable", "no server can answer now", "try again later", retry_after_s=retry),
        _Reply(504, "deadline_exceeded", "the answer took too long", "allow more time, or ask for less"),
    )


def local_reply_config(config: GatewayConfig) -> dict[str, Any]:
    """Envoy's ``LocalReplyConfig``: the first mapper that fits writes the answer."""
    grpc = _request_header("content-type", "application/grpc")
    openai = _request_header(":path", "/v1/")
    names = ("code", "title", "field", "mend")
    said: dict[str, Any] = {name: f"%DYNAMIC_METADATA({METADATA}:{name})%" for name in names}
    said["detail"] = _BODY
    return {
        "mappers": [
            {"filter": _all(_REFUSED, grpc), "body_format_override": _text(_BODY)},
            {
                "filter": _all(_REFUSED, openai),
                "body_format_override": _problem(**said, openai=True),
            },
            {"filter": _REFUSED, "body_format_override": _problem(**said)},
            *(_grpc_mapper(reply, grpc) for reply in _replies(config)),
            # The facade's own words, which it gave to ext_authz.
            {"filter": _SAID_BY_FACADE, "body_format_override": _text(_BODY, _MEDIA_TYPE)},
            *(_http_mapper(reply, openai) for reply in _replies(config)),
            *(_http_mapper(reply) for reply in _replies(config)),
        ],
        "body_format": _problem("internal", CODES["internal"].title, None, "report it", _DETAILS),
    }


def error_info(code: Code) -> bytes:
    """``google.rpc.ErrorInfo`` with the code as its reason, wrapped in ``google.protobuf.Any``."""
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=code.name, domain=_DOMAIN))
    return bytes(detail.SerializeToString())


def grpc_number(code: Code) -> int:
    """The number of a code's gRPC status."""
    return int(StatusCode[code.grpc].value[0])


def _http_mapper(reply: _Reply, *only: _Filter) -> dict[str, Any]:
    code = CODES[reply.code]
    body = _problem(code.name, code.title, None, reply.mend, reply.detail, openai=bool(only))
    if reply.retry_after_s is not None:
        body["json_format"]["retry_after_s"] = reply.retry_after_s
    return _mapper(reply, code, body, list(only), [])


def _grpc_mapper(reply: _Reply, grpc: _Filter) -> dict[str, Any]:
    """Clients compare the message with that in the details, so it must be known here."""
    code = CODES[reply.code]
    message = code.title if "%" in reply.detail else reply.detail
    status = Status(code=grpc_number(code), message=message)
    status.details.add().ParseFromString(error_info(code))
    details = base64.b64encode(status.SerializeToString()).decode()
    headers = [header("grpc-status", str(status.code)), header("grpc-status-details-bin", details)]
    return _mapper(reply, code, _text(message), [grpc], headers)


def _mapper(
    reply: _Reply, code: Code, body: dict[str, Any], only: list[_Filter], headers: list[dict[str, Any]]
) -> dict[str, Any]:
    if reply.retry_after_s is not None:
        headers = [*headers, header("retry-after", str(reply.retry_after_s), "ADD_IF_ABSENT")]
    reason = [_reason(reply.when)] if reply.when else []
    return {
        "filter": _all(_status(reply.status), *reason, *only),
        "status_code": code.http,
        "headers_to_add": headers,
        "body_format_override": body,
    }


def _problem(
    code: str, title: str, field: str | None, mend: str, detail: str, *, openai: bool = False
) -> dict[str, Any]:
    """A body of the members that :func:`gateway.facade.problems.problem` writes."""
    members: dict[str, Any] = {
        "type": f"urn:tritonforge:problem:{code}",
        "title": title,
        "status": "%RESPONSE_CODE%",
        "detail": detail,
        "code": code,
        "field": field,
        "mend": mend,
    }
    if openai:
        members["error"] = {
            "message": f"{detail}; {mend}",
            "type": "invalid_request_error",
            "param": field,
            "code": code,
        }
        if code in CODES and CODES[code].http >= 500:
            members["error"]["type"] = "server_error"
    return {"json_format": members, "content_type": _MEDIA_TYPE}


def _text(text: str, media_type: str = "text/plain") -> dict[str, Any]:
    return {"text_format_source": {"inline_string": text}, "content_type": media_type}


def _all(*filters: _Filter) -> _Filter:
    return {"and_filter": {"filters": list(filters)}} if len(filters) > 1 else filters[0]


def _status(status: int) -> _Filter:
    value = {"default_value": status, "runtime_key": "tritonforge.unused"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _request_header(name: str, prefix: str) -> _Filter:
    return {"header_filter": {"header": {"name": name, "string_match": {"prefix": prefix}}}}


def _reason(part: str) -> _Filter:
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=f"response.code_details.contains('{part}')",
        )
    }


_REFUSED: _Filter = {
    "metadata_filter": {
        "matcher": {"filter": METADATA, "path": [{"key": "code"}], "value": {"present_match": True}},
        "match_if_key_not_found": False,
    }
}
_SAID_BY_FACADE: _Filter = _all(
    {"response_flag_filter": {"flags": ["UAEX"]}},
    {"or_filter": {"filters": [_status(401), _status(403), _status(429)]}},
)
