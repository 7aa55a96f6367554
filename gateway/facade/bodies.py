"""JSON in and out: read strictly, written fast."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import ApiError
from gateway.tasks.call import Call


class Body(BaseModel):
    """Base of all request bodies: types are not guessed, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StrictRoute(APIRoute):
    """A route that reads its JSON body by the rules of :func:`parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give handlers a request whose JSON is read strictly."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            depth = self.app.state.facade.config.limits.max_json_depth
            self._json = parse_json(await self.body(), depth)
        return self._json


def parse_json(data: bytes, max_depth: int) -> Any:
    """Read JSON text: UTF-8, no NaN, no lone surrogates, not too deep.

    Raises:
        ApiError: ``invalid_json`` or ``too_deep``.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_json", str(error), mend="send one JSON object in UTF-8") from error
    if depth_exceeds(value, max_depth):
        raise ApiError("too_deep", f"more than {max_depth} levels of nesting", mend="send a flatter body")
    return value


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than ``limit`` levels deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            item
            for container in level
            if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def json_response(data: Any, call: Call | None = None) -> Response:
    """A 200 answer; numpy arrays are written as they are, and ``call``'s headers go along."""
    return Response(
        orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SERIALIZE_DATACLASS),
        media_type="application/json",
        headers=call.headers if call is not None else None,
    )


_CODES = {"missing": "missing_field", "extra_forbidden": "unknown_field", "json_invalid": "invalid_json"}


def validation_error(error: RequestValidationError) -> ApiError:
    """The first fault that pydantic found, in our words; the others are named in the mend."""
    faults = error.errors()
    first = faults[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "header", "path")]
    others = len(faults) - 1
    mend = "GET /openapi.json holds the schema" + (f"; {others} more fault(s) follow" if others else "")
    return ApiError(
        _CODES.get(first["type"], "invalid_value"), first["msg"], field=".".join(place) or None, mend=mend
    )
