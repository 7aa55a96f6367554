"""JSON in and out: read strictly, written fast."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

import orjson
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.config.limits import Limits
from gateway.errors import ApiError
from gateway.tasks.call import Call

WIDEST = 10_000
"""Members of an object or elements of a list in a body, at most; more where ``limits.max_texts`` says so."""


class Body(BaseModel):
    """Base of all request bodies: types are not guessed, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, fail_fast=True)]
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
ModelName = Annotated[str, Field(min_length=1, max_length=128)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""After a field's bounds. JSON has one type of number: 2.0 is a whole one, and so says JSON Schema."""


class StrictRoute(APIRoute):
    """A route that reads its JSON body by the rules of :func:`parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Give handlers a request whose JSON is read already: FastAPI would hide why it cannot be read."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def handle(request: Request) -> Response:
            strict = _StrictRequest(request.scope, request.receive)
            await strict.json()
            return await handler(strict)

        return handle


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            limits: Limits = self.app.state.facade.config.limits
            check_media_type(self.headers.get("content-type", ""))
            data = await self._bounded_body(limits.max_body_bytes)
            self.scope["tritonforge.start"] = time.perf_counter()
            self._json = parse_json(data, limits)
        return self._json

    async def _bounded_body(self, limit: int) -> bytes:
        """The body; Envoy bounds it too, but not where a test or a tool speaks to the facade alone."""
        chunks = []
        size = 0
        try:
            async for chunk in self.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise ApiError(
                        "body_too_large", f"the body has more than {limit} bytes", mend="send less at once"
                    )
        except ClientDisconnect as error:
            raise ApiError("cancelled", "the caller left before the body was there") from error
        self._body = b"".join(chunks)
        return self._body


def check_media_type(content_type: str) -> None:
    """Demand JSON.

    Raises:
        ApiError: ``unsupported_media_type``.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            "unsupported_media_type",
            f"content-type is {content_type[:60] or 'missing'}",
            field="content-type",
            mend="send content-type: application/json",
        )


def parse_json(data: bytes | str, limits: Limits) -> Any:
    """Read JSON text: UTF-8, no NaN, no lone surrogates, no name twice in an object, not too deep or wide.

    Raises:
        ApiError: ``invalid_json``, ``too_deep`` or ``too_wide``.
    """
    try:
        value = orjson.loads(data)
    except (orjson.JSONDecodeError, UnicodeError) as error:
        raise ApiError("invalid_json", str(error), mend="send one JSON object in UTF-8") from error
    _check_shape(value, limits.max_json_depth, max(WIDEST, limits.max_texts))
    try:
        json.loads(data, object_pairs_hook=_each_once)  # orjson takes the last of two
    except ValueError as error:  # also a number of thousands of digits
        raise ApiError("invalid_json", str(error)[:200], mend="send one JSON object in UTF-8") from error
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:60]!r} is there twice")


def _check_shape(value: Any, deepest: int, widest: int) -> None:
    """Refuse what would take seconds to find every fault of."""
    level = [value]
    for _ in range(deepest):
        inner = []
        for container in level:
            if isinstance(container, dict | list):
                if len(container) > widest:
                    raise _too_wide(widest)
                items = container.values() if isinstance(container, dict) else container
                inner += [item for item in items if isinstance(item, dict | list)]
        if len(inner) > widest:
            raise _too_wide(widest)
        if not inner:
            return
        level = inner
    raise ApiError("too_deep", f"more than {deepest} levels of nesting", mend="send a flatter body")


def _too_wide(widest: int) -> ApiError:
    return ApiError("too_wide", f"more than {widest} members or elements", mend="send a smaller body")


def check_texts(texts: Sequence[str], limits: Limits, field: str = "texts") -> None:
    """Hold a list of texts to the configured bounds.

    Raises:
        ApiError: There are too many, or one is too long; it is named by its index.
    """
    if len(texts) > limits.max_texts:
        raise ApiError(
            "invalid_value",
            f"{len(texts)} texts, and {limits.max_texts} are allowed",
            field=field,
            mend="send them in several requests",
        )
    for index, text in enumerate(texts):
        if _is_longer(text, limits.max_text_bytes):
            check_text(text, limits, f"{field}.{index}")


def check_text(text: str, limits: Limits, field: str = "text") -> None:
    """Hold one text to the configured bound.

    Raises:
        ApiError: It is too long.
    """
    bound = limits.max_text_bytes
    if _is_longer(text, bound):
        what = f"the text has more than {bound} bytes of UTF-8"
        raise ApiError("invalid_value", what, field=field, mend="send a shorter text")


def _is_longer(text: str, bound: int) -> bool:
    # A character has 4 bytes at most, so most texts need not be encoded to be measured.
    return len(text) * 4 > bound and len(text.encode()) > bound


def json_response(data: Any, call: Call | None = None) -> Response:
    """A 200 answer; numpy arrays are written as they are, and ``call``'s headers go along."""
    return Response(
        orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_SERIALIZE_DATACLASS),
        media_type="application/json",
        headers=call.headers if call is not None else None,
    )


def latency_ms(request: Request) -> float:
    """Milliseconds since the body of a request to a :class:`StrictRoute` was there."""
    start: float = request.scope["tritonforge.start"]
    return round((time.perf_counter() - start) * 1000, 3)
