"""The OpenAPI document: what FastAPI finds out by itself, and what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from gateway.config import GatewayConfig
from gateway.errors import CODES, ApiError
from gateway.facade.problems import MEDIA_TYPE, Problem, problem

SUMMARY = "Embedding, classification and generation by Triton servers"
DESCRIPTION = """\
Every error is `application/problem+json` with `code`, `field` and `mend`. A caller shows a token or an API
key; its scopes are `embed`, `classify`, `generate`, and `model:NAME` or `model:*`.
Header `x-request-timeout-ms` says how many milliseconds an answer is waited for; then it is a 504.
`/ws/generate` streams generation over a WebSocket. KServe v2 is spoken over HTTP and gRPC, and
`tritonforge.v1.ModelService` over gRPC.
"""
TAGS = [
    {"name": "embedding", "description": "Vectors of texts"},
    {"name": "classification", "description": "Labels of texts"},
    {"name": "generation", "description": "Text that follows a text"},
    {"name": "openai", "description": "OpenAI's API, for its clients"},
    {"name": "models", "description": "What the models do now"},
    {"name": "health", "description": "Open to everybody"},
]

_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_OPEN_TAG = "health"
# Examples of problems by status; what they say besides is the caller's own case.
_SCHEMA_PLACE = "GET /openapi.json holds the schema"
_EXAMPLES = {
    "400": ApiError("missing_field", "text is missing", field="text", mend=_SCHEMA_PLACE),
    "401": ApiError("unauthenticated", "nobody is named", mend="send a bearer token or an API key"),
    "403": ApiError("forbidden", "scope embed is missing", mend="ask for a token with scope embed"),
    "404": ApiError("model_not_found", "no model llama is served", field="model", mend="GET /v1/models"),
    "413": ApiError("body_too_large", "the body has more than 4194304 bytes", mend="send less at once"),
    "415": ApiError("unsupported_media_type", "content-type is text/plain", mend="send application/json"),
    "429": ApiError("rate_limited", "10 requests per second are allowed", mend="try again", retry_after_s=1),
    "500": ApiError("internal", "a fault of the gateway; it is in its log", mend="report it"),
    "502": ApiError("model_failed", "minilm ended without an end", mend="try again"),
    "503": ApiError("overloaded", "minilm: the queue is full", mend="try again", retry_after_s=1),
    "504": ApiError("deadline_exceeded", "the time for this request is over", mend="allow more time"),
}
_OF_ALL = ("429", "503")
_OF_BODIES = ("413", "415")
_RETRY_AFTER = {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")


def document(app: FastAPI, config: GatewayConfig) -> None:
    """Have ``/openapi.json`` tell of security, problems and configured limits too."""
    found = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(found(), config)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(schema: dict[str, Any], config: GatewayConfig) -> None:
    parts = schema.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in _OF_FASTAPI:
        schemas.pop(name, None)
    told = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= told.pop("$defs") | {"Problem": told}
    for body in schemas.values():
        texts = body.get("properties", {}).get("texts")
        if texts is not None:
            texts["maxItems"] = config.limits.max_texts
    parts["responses"] = {status: _response(status, error) for status, error in _EXAMPLES.items()}
    if not config.auth.disabled:
        parts["securitySchemes"] = _SECURITY
    for methods in schema["paths"].values():
        for operation in methods.values():
            _complete_operation(operation, secured=not config.auth.disabled)


def _complete_operation(operation: dict[str, Any], *, secured: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # a fault of a body is a 400 here
    is_open = _OPEN_TAG in operation.get("tags", ())
    operation["security"] = [] if is_open or not secured else [{name: []} for name in _SECURITY]
    for status in _EXAMPLES:
        if (is_open and status not in _OF_ALL) or (status in _OF_BODIES and "requestBody" not in operation):
            continue
        responses.setdefault(status, {"$ref": f"#/components/responses/{status}"})


def _response(status: str, example: ApiError) -> dict[str, Any]:
    titles = [code.title for code in CODES.values() if str(code.http) == status]
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": problem(example)}
    response: dict[str, Any] = {"description": "; ".join(titles), "content": {MEDIA_TYPE: content}}
    if example.retry_after_s is not None:
        response["headers"] = {"Retry-After": _RETRY_AFTER}
    return response
