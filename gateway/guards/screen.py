"""Patterns that texts must not hold: a coarse sieve, no security boundary (``docs/gateway_limits.md``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import re2
import structlog

from gateway.config.limits import Screen
from gateway.errors import ApiError, GatewayConfigError
from gateway.guards.metrics import SCREENED

logger = structlog.get_logger(__name__)


class PromptScreen:
    """Looks for denied patterns, in time linear in a text's length whatever pattern and text are.

    Args:
        screen: The patterns.

    Raises:
        GatewayConfigError: A pattern is none, or would deny every text.
    """

    def __init__(self, screen: Screen) -> None:
        """Compile the patterns."""
        # One by one rather than as a re2.Set, which finds nothing once its automaton outgrows its memory.
        self._patterns = [_compile(index, pattern) for index, pattern in enumerate(screen.deny)]
        self._max_bytes = screen.max_bytes

    def check(self, texts: Sequence[str], field: str) -> None:
        """See :class:`gateway.guards.protocols.TextScreen`."""
        if not self._patterns:
            return
        for position, text in enumerate(texts):
            data = text.encode("utf-8", "surrogatepass")
            which = "the text" if len(texts) == 1 else f"the text at index {position}"
            if len(data) > self._max_bytes:
                raise ApiError(
                    "invalid_value",
                    f"{which} has {len(data)} bytes, {self._max_bytes} are allowed",
                    field=field,
                    mend="send a shorter text",
                )
            for index, pattern in enumerate(self._patterns):
                if pattern.search(data):
                    SCREENED.labels(str(index)).inc()
                    logger.info("text_refused", pattern=index, field=field)
                    raise ApiError(
                        "text_refused", f"{which} is denied here", field=field, mend="ask for something else"
                    )


def _compile(index: int, pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    where = f"screen.deny.{index}"
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise GatewayConfigError(
            f"{pattern!r} is no RE2 pattern: {text}",
            where=where,
            mend="see https://github.com/google/re2/wiki/Syntax, which has no look-around or back references",
        ) from error
    if compiled.search(b""):
        raise GatewayConfigError(
            f"{pattern!r} matches the empty text, and so would deny every text",
            where=where,
            mend="demand at least one character",
        )
    return compiled
