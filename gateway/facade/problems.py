"""Errors as ``application/problem+json`` (RFC 9457), with our code, field and mend.

Below ``/v1`` a problem also has the member ``error`` of OpenAI's API, which its clients read.
"""

from __future__ import annotations

import math
from typing import Any

import orjson
import structlog
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import CODES, ApiError
from gateway.facade.logs import LOGGED

MEDIA_TYPE = "application/problem+json"
logger = structlog.get_logger(__name__)


class OpenAIError(BaseModel):
    """What OpenAI's clients read."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """An error, on every path.

    Attributes:
        type: ``urn:tritonforge:problem:`` and the code.
        title: What the code means.
        status: HTTP status.
        detail: What was wrong.
        code: For programs; docs/gateway_rest.md lists all.
        field: Path of the field at fault, such as ``texts.3``.
        mend: What the caller can do.
        retry_after_s: Seconds after which trying again makes sense.
        error: Below ``/v1`` only.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None
    mend: str | None
    retry_after_s: float | None = None
    error: OpenAIError | None = None


def problem(error: ApiError, *, openai: bool = False) -> dict[str, Any]:
    """The members of a problem; ``type`` names the code's place in the docs."""
    body: dict[str, Any] = {
        "type": f"urn:tritonforge:problem:{error.code.name}",
        "title": error.code.title,
        "status": error.code.http,
        "detail": error.what,
        "code": error.code.name,
        "field": error.field,
        "mend": error.mend,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    if openai:
        body["error"] = {
            "message": f"{error.what}; {error.mend}" if error.mend else error.what,
            "type": "server_error" if error.code.http >= 500 else "invalid_request_error",
            "param": error.field,
            "code": error.code.name,
        }
    return body


def problem_response(error: ApiError, path: str) -> Response:
    """The HTTP answer to a request that failed."""
    headers = dict(error.headers)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return Response(
        orjson.dumps(problem(error, openai=path.startswith("/v1/"))),
        status_code=error.code.http,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


async def answer_api_error(request: Request, error: Exception) -> Response:
    """Handler of :class:`ApiError`."""
    assert isinstance(error, ApiError)
    return problem_response(error, request.url.path)


async def answer_fault(request: Request, error: Exception) -> Response:
    """Handler of what nobody foresaw: told in the log, not to the caller."""
    logger.error("fault", path=request.url.path, exc_info=error)
    error.__dict__[LOGGED] = True
    fault = ApiError("internal", "a fault of the gateway; it is in its log", mend="report it")
    return problem_response(fault, request.url.path)


_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}
assert set(_STATUS_CODES.values()) <= set(CODES)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Handler of Starlette's own errors: no such path, no such method."""
    status = getattr(error, "status_code", 500)
    code = _STATUS_CODES.get(status, "internal" if status >= 500 else "invalid_value")
    detail = str(getattr(error, "detail", "")) or CODES[code].title
    headers = dict(getattr(error, "headers", None) or {})
    answer = ApiError(code, detail, mend="GET /openapi.json lists every path", headers=headers)
    return problem_response(answer, request.url.path)
