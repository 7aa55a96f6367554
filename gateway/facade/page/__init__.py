"""The playground at ``/``: a static page that tries each task in the browser.

It asks its own origin only; the strict content security policy holds it to that. Nothing in it is secret, so
it is open; what it asks needs a token like anybody else's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ApiError
from gateway.facade.state import facade_of

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, but asked for again, so that the files always fit each other
}
_METHODS = ["GET", "HEAD"]


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page, with its headers."""

    content: bytes
    headers: dict[str, str]

    @classmethod
    def of(cls, content: bytes, suffix: str) -> _File:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return cls(content, {**_HEADERS, "content-type": _TYPES[suffix], "etag": tag})


_FILES = {
    path.name: _File.of(path.read_bytes(), path.suffix)
    for path in sorted(_FOLDER.iterdir())
    if path.suffix in _TYPES
}
_FILES["open.html"] = _File.of(
    _FILES["index.html"].content.replace(b"data-auth=token", b"data-auth=none"), ".html"
)


@router.api_route("/", methods=_METHODS)
async def index(request: Request) -> Response:
    """The page; it asks for a token only where one is needed."""
    return _answer(request, "open.html" if facade_of(request).config.auth.disabled else "index.html")


@router.api_route("/page/{name}", methods=_METHODS)
async def file(request: Request, name: str) -> Response:
    """What the page loads."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    found = _FILES.get(name) if facade_of(request).config.facade.page else None
    if found is None:
        raise ApiError("not_found", f"there is no {name[:100]}", mend="GET / is the page, where it is on")
    if found.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=found.headers)
    return Response(found.content, headers=found.headers)
