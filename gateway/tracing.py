"""Which trace a request belongs to.

The context is W3C's ``traceparent``, which Envoy sets: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re
from contextvars import ContextVar

TRACEPARENT = "traceparent"

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 1

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def enter(traceparent: str | None) -> None:
    """Note the header of the request that this task serves; tasks made from here on know it too."""
    _current.set(traceparent)


def current_trace_id() -> str | None:
    """The trace of the request being served, 32 hexadecimal digits; None: it has none, or is not sampled."""
    found = sampled(_current.get())
    return found and found[0]


def sampled(traceparent: str | None) -> tuple[str, str] | None:
    """Ids of trace and parent span; None: the header is absent, no valid one, or says not to sample."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN or not int(match[3], 16) & _SAMPLED:
        return None
    return match[1], match[2]
