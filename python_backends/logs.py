"""What the backends log: ``event key=value key="a longer value"``, one line, by Triton's own logger.

Its levels are Triton's, so ``POST /v2/logging`` changes them while it runs. Nothing here takes a text: what
went wrong with a request is told to its sender, and logged as a reason from a short list.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

BURST, PER_SECOND = 20, 1.0
"""Of refused and of failed requests so many are logged at once, then each second; others are counted."""
_LONGEST_ID = 128


def line(event: str, **fields: object) -> str:
    """One event as a line; fields that are None or empty are left out."""
    return " ".join(
        [event, *(f"{key}={_value(item)}" for key, item in fields.items() if item not in (None, ""))]
    )


def _value(item: object) -> str:
    text = str(item)
    plain = all(character.isalnum() or character in "._:/+-<>()@%" for character in text)
    return text if plain and text.isascii() else json.dumps(text)


def place(error: BaseException) -> str:
    """Which kind of error, and where it was raised; not its message, which may hold what somebody sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(error).__name__
    if trace is None:
        return kind
    return f"{kind} at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def origin(request: Any) -> dict[str, str]:
    """``request_id`` and ``trace_id`` of a Triton request.

    Headers are parameters of a request where Triton was told so, as `tritonforge serve` does. The id is that
    of the header where there is one, as the gateway logs it, else the one in the request.
    """
    headers = {key.lower(): value for key, value in json.loads(request.parameters() or "{}").items()}
    parts = str(headers.get("traceparent", "")).split("-")
    return {
        "request_id": str(headers.get("x-request-id") or request.request_id())[:_LONGEST_ID],
        "trace_id": parts[1] if len(parts) == 4 else "",
    }


class RequestLog:
    """Logs requests that came to nothing; a flood of them cannot flood the log.

    Args:
        logger: ``pb_utils.Logger``.
        model: Name of the model.
    """

    def __init__(self, logger: Any, model: str) -> None:
        """Nothing is logged yet."""
        self._logger = logger
        self._model = model
        self._lock = threading.Lock()
        self._buckets = {"request_refused": _Bucket(), "request_failed": _Bucket()}

    def refused(self, request: Any, reason: str) -> None:
        """A request that its sender has to mend, or that found no place: level INFO.

        Args:
            request: Triton's request, or what :func:`origin` told of it.
            reason: A word, never a text.
        """
        self._log(self._logger.log_info, "request_refused", request, reason=reason)

    def failed(self, request: Any, error: str) -> None:
        """A request that failed here: level ERROR.

        Args:
            request: As above.
            error: What an engine said, which knows token ids only, or :func:`place`.
        """
        self._log(self._logger.log_error, "request_failed", request, error=error)

    def _log(self, write: Any, event: str, request: Any, **why: str) -> None:
        bucket = self._buckets[event]
        with self._lock:
            if not bucket.take(time.monotonic()):
                return
            unlogged, bucket.left_out = bucket.left_out, 0
        whence = request if isinstance(request, dict) else origin(request)
        write(line(event, model=self._model, **why, **whence, unlogged=unlogged or None))


class _Bucket:
    """A token bucket that counts what it turned away."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._last = time.monotonic()
        self.left_out = 0

    def take(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._last) * PER_SECOND)
        self._last = now
        if self._tokens < 1:
            self.left_out += 1
            return False
        self._tokens -= 1
        return True
