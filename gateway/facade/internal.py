"""What only the gateway's own processes ask.

Envoy: who is behind an API key, whether a limit is reached, with which keys to verify. The supervisor: to log
more or less.

No route of the public door leads here.
"""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from gateway.config.sections import LogLevel
from gateway.errors import ApiError
from gateway.facade.state import Facade, facade_of
from gateway.identity import REQUEST_ID_HEADER, SCOPES_HEADER, SUBJECT_HEADER, Identity
from gateway.logs import set_level
from gateway.tasks.call import Call

API_KEY_HEADER = "x-api-key"
_COUNTED_HERE = ("/v2/", "/inference.GRPCInferenceService/")
"""KServe v2 goes past the facade's services, which count all others."""
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

router = APIRouter(prefix="/internal", include_in_schema=False)


@router.api_route("/admit{path:path}", methods=_METHODS)
async def admit(request: Request, path: str) -> Response:
    """Envoy's check (ext_authz) of a request to ``path``, without its body.

    200 lets it pass, with the headers that Envoy is to set on it or on its answer.

    Raises:
        ApiError: ``unauthenticated``; ``rate_limited`` or ``unavailable`` by the shared limits.
    """
    facade = facade_of(request)
    identity = _identify(facade, request.headers)
    headers = {SUBJECT_HEADER: identity.subject, SCOPES_HEADER: " ".join(sorted(identity.scopes))}
    if path.startswith(_COUNTED_HERE):
        call = Call(
            identity,
            time.monotonic() + facade.config.resilience.request_timeout_s,
            request.headers.get(REQUEST_ID_HEADER, ""),
        )
        await facade.limiter.admit(call)
        headers |= call.headers
    return Response(headers=headers)


def _identify(facade: Facade, headers: Headers) -> Identity:
    """Who asks: by API key where there is one, else whom Envoy knows by token."""
    presented = headers.get(API_KEY_HEADER)
    if presented is None:
        return Identity.from_headers(headers)
    key = facade.keys.find(presented) if facade.keys is not None else None
    if key is None:
        raise ApiError(
            "unauthenticated",
            "no such API key, or it is over",
            mend="ask for a new one, or send a bearer token",
            headers={"www-authenticate": 'Bearer realm="tritonforge"'},
        )
    return Identity(key.subject, frozenset(key.scopes))


@router.post("/log-level")
async def log_level(level: LogLevel) -> Response:
    """Change what this process logs; the supervisor asks (:mod:`gateway.control.levels`)."""
    set_level(level)
    return Response(status_code=204)


@router.get("/jwks/{issuer}")
async def jwks(request: Request, issuer: str) -> Response:
    """Public keys of an issuer whose keys lie in a file.

    Raises:
        ApiError: ``not_found``: there is no such issuer; ``unavailable``: its file never was good.
    """
    key_sets = facade_of(request).key_sets
    if issuer not in key_sets:
        raise ApiError("not_found", f"no issuer {issuer} with a jwks_file")
    content = key_sets[issuer].content
    if content is None:
        raise ApiError(
            "unavailable", f"the JWKS file of {issuer} is missing or broken", mend="see the gateway's log"
        )
    return Response(content, media_type="application/jwk-set+json")
