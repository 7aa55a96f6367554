"""What can go wrong at the door: faults of the gateway's own set-up, and answers to callers."""

from __future__ import annotations

from dataclasses import dataclass

from tritonforge.errors import ServerError, TritonForgeError


class GatewayConfigError(TritonForgeError):
    """``gateway.yaml`` is missing, unreadable, or holds a value that is not allowed."""

    exit_code = 2


class GatewayError(ServerError):
    """Envoy or the facade could not be found, started, or did not become ready."""


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of answer to a request that fails, the same on every protocol.

    Attributes:
        name: The word that programs may rely on: ``code`` of a problem, ``reason`` over gRPC.
        title: What it means, in a few words.
        http: HTTP status.
        grpc: Name of the gRPC status.
    """

    name: str
    title: str
    http: int
    grpc: str


_CODES = (
    Code("invalid_json", "The body is not JSON", 400, "INVALID_ARGUMENT"),
    Code("invalid_value", "A value is not allowed", 400, "INVALID_ARGUMENT"),
    Code("missing_field", "A field is missing", 400, "INVALID_ARGUMENT"),
    Code("unknown_field", "A field is not known", 400, "INVALID_ARGUMENT"),
    Code("unsupported", "This is not offered", 400, "INVALID_ARGUMENT"),
    Code("too_deep", "The JSON is nested too deeply", 400, "INVALID_ARGUMENT"),
    Code("too_wide", "The JSON has too many members", 400, "INVALID_ARGUMENT"),
    Code("text_refused", "The text matches a pattern that is denied here", 400, "INVALID_ARGUMENT"),
    Code("wrong_task", "The model does another task", 404, "INVALID_ARGUMENT"),
    Code("unauthenticated", "No valid token or key", 401, "UNAUTHENTICATED"),
    Code("forbidden", "The token does not allow this", 403, "PERMISSION_DENIED"),
    Code("not_found", "There is nothing at this path", 404, "UNIMPLEMENTED"),
    Code("model_not_found", "No such model is served", 404, "NOT_FOUND"),
    Code("method_not_allowed", "The path does not take this method", 405, "UNIMPLEMENTED"),
    Code("busy", "Another request runs on this socket", 409, "ABORTED"),
    Code("request_timeout", "The request took too long to arrive", 408, "DEADLINE_EXCEEDED"),
    Code("body_too_large", "The body is too large", 413, "RESOURCE_EXHAUSTED"),
    Code("unsupported_media_type", "The body has a type that is not taken", 415, "INVALID_ARGUMENT"),
    Code("headers_too_large", "The headers are too many or too long", 431, "RESOURCE_EXHAUSTED"),
    Code("rate_limited", "Too many requests", 429, "RESOURCE_EXHAUSTED"),
    Code("cancelled", "The caller went away", 499, "CANCELLED"),
    Code("internal", "A fault of the gateway", 500, "INTERNAL"),
    Code("model_failed", "The model failed on this request", 502, "INTERNAL"),
    Code("overloaded", "More is asked than can be served", 503, "UNAVAILABLE"),
    Code("unavailable", "No server can answer now", 503, "UNAVAILABLE"),
    Code("deadline_exceeded", "The answer took too long", 504, "DEADLINE_EXCEEDED"),
)
CODES = {code.name: code for code in _CODES}


class ApiError(TritonForgeError):
    """An answer to a caller whose request cannot be served.

    Args:
        code: A name in :data:`CODES`.
        what: What was wrong, in one sentence.
        field: Path of the field at fault, such as ``messages.0.content``.
        mend: What the caller can do about it.
        retry_after_s: Seconds after which trying again makes sense.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        field: str | None = None,
        mend: str | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Keep the parts, for each protocol to write in its own form."""
        super().__init__(what, where=field, mend=mend)
        self.code = CODES[code]
        self.field = field
        self.retry_after_s = retry_after_s
        self.headers = headers or {}
