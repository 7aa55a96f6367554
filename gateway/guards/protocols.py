"""What the services ask of the guards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from gateway.tasks.call import Call

V = TypeVar("V")


class Limiter(Protocol):
    """Requests and tokens per minute of a user, over all replicas."""

    async def admit(self, call: Call) -> None:
        """Count a request, and write the RateLimit headers into ``call.headers``.

        Raises:
            ApiError: ``rate_limited``, with ``retry_after_s``; or ``unavailable`` where the configuration
                refuses callers while Redis is away.
        """
        ...

    async def charge(self, call: Call, tokens: int) -> None:
        """Count tokens that a request took; never fails, for the answer is there already."""
        ...


class TextScreen(Protocol):
    """Patterns that texts must not hold."""

    def check(self, texts: Sequence[str], field: str) -> None:
        """Look at texts before a model sees them.

        Args:
            texts: What the caller wrote.
            field: Where, for the message.

        Raises:
            ApiError: ``text_refused``.
        """
        ...


class Answers(Protocol):
    """Answers to exact repeated questions, and one computation for the same question asked at once."""

    async def many(
        self,
        keys: Sequence[Hashable],
        compute: Callable[[list[int]], Awaitable[Sequence[V]]],
        *,
        deadline: float,
    ) -> list[V]:
        """Answer each key, from memory where it is there.

        Args:
            keys: One for each question; equal keys have equal answers.
            compute: Gives the answers to the questions at the given positions. It goes on when this caller
                leaves while others wait for the same, and is cancelled when nobody does any more.
            deadline: Of this caller, on the clock of :func:`time.monotonic`.

        Raises:
            ApiError: ``deadline_exceeded``, or what ``compute`` raised.
        """
        ...
