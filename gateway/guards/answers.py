"""Answers kept for exact repeated questions, and one computation for the same question asked at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from cachetools import TTLCache

from gateway.config.limits import AnswerCache as AnswerCacheConfig
from gateway.errors import ApiError
from gateway.guards.metrics import ENTRIES, HITS, JOINED, MISSES

V = TypeVar("V")
_ABSENT: Any = object()
_OF_THE_CALLER = ("cancelled", "deadline_exceeded")
"""Failures that say more about who asked first than about the question."""


class _Flight:
    """A computation under way.

    Attributes:
        task: Gives the answers.
        places: Which answer is to which question.
        waiting: Callers who wait for it.
    """

    __slots__ = ("places", "task", "waiting")

    def __init__(self, task: asyncio.Task[Sequence[Any]], places: dict[bytes, int]) -> None:
        self.task = task
        self.places = places
        self.waiting = 0


class AnswerCache:
    """Least recently used answers go first, and all go when their time is over.

    Questions are kept as digests, so a text does not stay in memory with its answer.

    Args:
        config: How many, for how long, or none at all.
        timer: A clock in seconds.
    """

    def __init__(self, config: AnswerCacheConfig, timer: Callable[[], float] = time.monotonic) -> None:
        """Start empty."""
        self._enabled = config.enabled
        self._kept: TTLCache[bytes, Any] = TTLCache(config.entries, config.ttl_s, timer)
        self._flights: dict[bytes, _Flight] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Answers kept, those included whose time is over and whose place nobody wanted yet."""
        return int(self._kept.currsize)

    async def many(
        self,
        keys: Sequence[Hashable],
        compute: Callable[[list[int]], Awaitable[Sequence[V]]],
        *,
        deadline: float,
    ) -> list[V]:
        """See :class:`gateway.guards.protocols.Answers`."""
        if not self._enabled:
            return list(await compute(list(range(len(keys)))))
        digests = [
            blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=16).digest() for key in keys
        ]
        found: dict[bytes, V] = {}
        first = True
        while True:
            own = self._find(digests, found, compute, count=first)
            first = False
            waiting = {self._flights[digest] for digest in digests if digest not in found}
            if not waiting:
                return [found[digest] for digest in digests]
            await self._wait(waiting, deadline)
            for flight in waiting:
                _take(flight, found, digests, own=flight is own)

    async def close(self) -> None:
        """End what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _find(
        self,
        digests: list[bytes],
        found: dict[bytes, V],
        compute: Callable[[list[int]], Awaitable[Sequence[V]]],
        *,
        count: bool,
    ) -> _Flight | None:
        """Take what is kept into ``found``, and start to compute what nobody computes yet."""
        hits = misses = 0
        missing: dict[bytes, int] = {}
        for position, digest in enumerate(digests):
            if digest in found or digest in missing or digest in self._flights:
                continue
            value = self._kept.get(digest, _ABSENT)
            if value is _ABSENT:
                missing[digest] = position
            else:
                found[digest] = value
        if count:
            hits, misses = len(found), len(missing)
            _count(hits, misses, len(digests) - hits - misses)
        return self._start(missing, compute) if missing else None

    def _start(
        self, missing: dict[bytes, int], compute: Callable[[list[int]], Awaitable[Sequence[V]]]
    ) -> _Flight:
        """Compute in a task of its own: others may come to wait for the same, and who asked may leave."""
        places = {digest: place for place, digest in enumerate(missing)}

        async def run() -> Sequence[V]:
            try:
                answers = await compute(list(missing.values()))
                if len(answers) != len(missing):
                    raise RuntimeError(f"{len(answers)} answers to {len(missing)} questions")
                for digest, answer in zip(missing, answers, strict=True):
                    self._kept[digest] = _owned(answer)
                ENTRIES.set(self._kept.currsize)
                return answers
            finally:
                self._forget(flight)

        task = asyncio.get_running_loop().create_task(run())
        flight = _Flight(task, places)
        self._flights.update(dict.fromkeys(missing, flight))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return flight

    async def _wait(self, flights: set[_Flight], deadline: float) -> None:
        """Wait for all. A computation goes on while anybody waits for it, and is cancelled with the last."""
        for flight in flights:
            flight.waiting += 1
        try:
            tasks = [flight.task for flight in flights]
            _, pending = await asyncio.wait(tasks, timeout=max(0.0, deadline - time.monotonic()))
        finally:
            for flight in flights:
                flight.waiting -= 1
                if not flight.waiting and not flight.task.done():
                    self._forget(flight)  # at once, so that nobody joins it any more
                    flight.task.cancel()
        if pending:
            raise ApiError("deadline_exceeded", "the answer took too long", mend="allow more time")

    def _forget(self, flight: _Flight) -> None:
        for digest in flight.places:
            if self._flights.get(digest) is flight:
                del self._flights[digest]

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain where all callers have gone


def _count(hits: int, misses: int, joined: int) -> None:
    for counter, amount in ((HITS, hits), (MISSES, misses), (JOINED, joined)):
        if amount:
            counter.inc(amount)


def _take(flight: _Flight, found: dict[bytes, Any], digests: list[bytes], *, own: bool) -> None:
    """Take the answers of a computation that ended.

    A failure is raised, unless it may be due to somebody else's deadline or to somebody else's text: what
    is missing is then asked for anew.
    """
    if flight.task.cancelled():
        raise ApiError("unavailable", "the gateway stops", mend="try again", retry_after_s=1)
    error = flight.task.exception()
    if error is None:
        answers = flight.task.result()
        for digest in digests:
            place = flight.places.get(digest)
            if place is not None:
                found[digest] = answers[place]
        return
    foreign = isinstance(error, ApiError) and error.code.name in _OF_THE_CALLER
    if own or not (foreign or flight.places.keys() - set(digests)):
        raise error


def _owned(answer: Any) -> Any:
    """An answer that holds no larger buffer alive, as a row of a batch does."""
    own = getattr(answer, "owned", None)
    return answer if own is None else own()
