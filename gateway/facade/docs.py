"""``/docs``: the OpenAPI document to read and to try out, with no host but this one.

Swagger UI (Apache-2.0) comes with the package fastapi-offline (MIT).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tritonforge API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# validatorUrl would ask a host outside.
_START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""
# Swagger UI writes style attributes, and has its pictures in its style sheet.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_KEEP = {"cache-control": "public, max-age=86400"}
_SCRIPT = "text/javascript; charset=utf-8"
_METHODS = ["GET", "HEAD"]


@router.api_route("/docs", methods=_METHODS)
async def page() -> Response:
    """The page."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.api_route("/docs/start.js", methods=_METHODS)
async def start() -> Response:
    """What starts Swagger UI."""
    return Response(_START, media_type=_SCRIPT, headers=_HEADERS)


@router.api_route("/docs/swagger-ui-bundle.js", methods=_METHODS)
async def script() -> Response:
    """Swagger UI."""
    return Response(_asset("swagger-ui-bundle.js"), media_type=_SCRIPT, headers=_HEADERS | _KEEP)


@router.api_route("/docs/swagger-ui.css", methods=_METHODS)
async def style() -> Response:
    """Swagger UI's looks."""
    return Response(_asset("swagger-ui.css"), media_type="text/css", headers=_HEADERS | _KEEP)


@cache
def _asset(name: str) -> bytes:
    spec = find_spec("fastapi_offline")  # its files only: importing it makes an application
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "static" / name).read_bytes()
