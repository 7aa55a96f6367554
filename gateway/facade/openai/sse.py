"""Server-sent events as OpenAI writes them: ``data:`` and JSON, at the end ``[DONE]``.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
import structlog
from starlette.requests import Request

from gateway.errors import ApiError
from gateway.facade.cancelling import CancellableStream, unless_gone
from gateway.facade.problems import problem
from gateway.tasks.call import Call

logger = structlog.get_logger(__name__)

_DONE = b"data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event(data: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: %b\n\n" % orjson.dumps(data)


async def event_stream(
    request: Request, call: Call, events: AsyncGenerator[bytes, None]
) -> CancellableStream:
    """Answer with events, once the first of them is there.

    Args:
        request: Whose caller may leave.
        call: Its headers go along.
        events: Closed when the caller leaves. An error before the first event becomes an HTTP status, a
            later one an event with ``error``, after which nothing comes.

    Raises:
        ApiError: What ``events`` raised before its first.
    """
    first = await unless_gone(request.receive, anext(events))
    return CancellableStream(
        _told(first, events), headers=call.headers | _HEADERS, media_type="text/event-stream"
    )


async def _told(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first
        try:
            async for chunk in events:
                yield chunk
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.error("fault", exc_info=error)
                error = ApiError("internal", "a fault of the gateway; it is in its log", mend="report it")
            yield event({"error": problem(error, openai=True)["error"]})
        else:
            yield _DONE
