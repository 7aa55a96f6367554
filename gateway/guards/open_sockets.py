"""How many WebSockets may be open."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from gateway.config.limits import WebSockets
from gateway.errors import ApiError

_RETRY_S = 5.0


class OpenSockets:
    """Counts the open sockets of this process.

    Args:
        bounds: How many in all, and of one caller.
    """

    def __init__(self, bounds: WebSockets) -> None:
        """Start with none."""
        self._bounds = bounds
        self._of: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many are open."""
        return self._of.total()

    @contextlib.contextmanager
    def place(self, subject: str) -> Iterator[None]:
        """Hold a place while a socket is open.

        Args:
            subject: Whose.

        Raises:
            ApiError: ``overloaded`` or, where the caller alone holds too many, ``rate_limited``.
        """
        bounds = self._bounds
        if self._of[subject] >= bounds.max_open_per_user:
            raise ApiError(
                "rate_limited",
                f"{bounds.max_open_per_user} WebSockets of this caller are open",
                mend="close one; a socket serves one request after another",
                retry_after_s=_RETRY_S,
            )
        if self.count >= bounds.max_open:
            raise ApiError(
                "overloaded",
                f"{bounds.max_open} WebSockets are open",
                mend="try again",
                retry_after_s=_RETRY_S,
            )
        self._of[subject] += 1
        try:
            yield
        finally:
            self._of[subject] -= 1
            if not self._of[subject]:
                del self._of[subject]
