"""Requests and tokens per minute of a user, counted in Redis for all replicas of a gateway.

Requests are counted in a sliding window. Tokens are known only once an answer is there, so they are always
debited, in a fixed window, and while none are left no request is let in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from limits import RateLimitItem, RateLimitItemPerMinute, WindowStats
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from gateway.config.limits import SharedLimits
from gateway.errors import ApiError
from gateway.guards.metrics import LIMITED
from gateway.guards.redis_link import RedisLink, RedisUnavailableError, redis_url
from gateway.tasks.call import Call


class SharedLimiter:
    """Counts in Redis, and while that is away in memory, or lets nobody in.

    Args:
        limits: The limits; None: none.

    Raises:
        GatewayConfigError: The variable with the URL of Redis is missing, or is none.
    """

    def __init__(self, limits: SharedLimits | None) -> None:
        """Take the limits; needs a running event loop where there are any."""
        self._limits = limits if limits and limits.limited else None
        if self._limits is None:
            return
        self._link = RedisLink(redis_url(self._limits.redis_url_env), self._limits.timeout_ms / 1000)
        self._shared = _Counts(self._link.storage, self._limits)
        self._local = _Counts(MemoryStorage(), self._limits)

    async def admit(self, call: Call) -> None:
        """See :class:`gateway.guards.protocols.Limiter`."""
        limits = self._limits
        if limits is None:
            return
        user = _pseudonym(call)
        try:
            left = await self._link.ask(lambda: self._shared.admit(user))
        except RedisUnavailableError:
            if limits.without_redis == "refuse":
                raise ApiError(
                    "unavailable", "limits cannot be counted now", mend="try again", retry_after_s=1
                ) from None
            left = await self._local.admit(user)
        call.headers.update(left.headers())
        if left.refused is not None:
            LIMITED.labels(left.refused).inc()
            stats = left.stats[left.refused]
            raise ApiError(
                "rate_limited",
                f"{stats.limit} {left.refused} a minute are allowed to one caller",
                mend="wait, or spread the load",
                retry_after_s=stats.reset_s,
                headers=dict(call.headers),
            )

    async def charge(self, call: Call, tokens: int) -> None:
        """See :class:`gateway.guards.protocols.Limiter`."""
        if self._limits is None or self._limits.tokens_per_minute is None or tokens <= 0:
            return
        user = _pseudonym(call)
        try:
            await self._link.ask(lambda: self._shared.charge(user, tokens))
        except RedisUnavailableError:
            await self._local.charge(user, tokens)

    async def close(self) -> None:
        """Leave Redis."""
        if self._limits is not None:
            await self._link.close()


@dataclass(frozen=True, slots=True)
class _Stats:
    """What is left of one limit; seconds until some of it is given back, at least 1."""

    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class _Left:
    """What is left of the limits ``requests`` and ``tokens``, and which of them refuses."""

    stats: Mapping[str, _Stats]
    refused: str | None

    def headers(self) -> dict[str, str]:
        """RateLimit fields of requests, and those that OpenAI's API has of tokens."""
        headers = {}
        if stats := self.stats.get("requests") or self.stats.get("tokens"):
            headers["ratelimit-limit"] = str(stats.limit)
            headers["ratelimit-remaining"] = str(stats.remaining)
            headers["ratelimit-reset"] = str(stats.reset_s)
        if stats := self.stats.get("tokens"):
            headers["x-ratelimit-limit-tokens"] = str(stats.limit)
            headers["x-ratelimit-remaining-tokens"] = str(stats.remaining)
            headers["x-ratelimit-reset-tokens"] = f"{stats.reset_s}s"
        return headers


class _Counts:
    """Both limits in one storage."""

    def __init__(self, storage: Storage, limits: SharedLimits) -> None:
        self._requests = _item(limits.requests_per_minute)
        self._tokens = _item(limits.tokens_per_minute)
        self._sliding = SlidingWindowCounterRateLimiter(storage)
        self._fixed = FixedWindowRateLimiter(storage)

    async def admit(self, user: str) -> _Left:
        """Count a request, unless no tokens are left."""
        stats: dict[str, _Stats] = {}
        if self._tokens is not None:
            found = await self._fixed.get_window_stats(self._tokens, user, "tokens")
            stats["tokens"] = _stats(self._tokens, found)
        refused = "tokens" if self._tokens is not None and not stats["tokens"].remaining else None
        if self._requests is not None:
            if refused is None and not await self._sliding.hit(self._requests, user, "requests"):
                refused = "requests"
            found = await self._sliding.get_window_stats(self._requests, user, "requests")
            stats["requests"] = _stats(self._requests, found)
        return _Left(stats, refused)

    async def charge(self, user: str, tokens: int) -> None:
        """Debit tokens, also beyond the limit."""
        if self._tokens is not None:
            await self._fixed.hit(self._tokens, user, "tokens", cost=tokens)


def _item(amount: int | None) -> RateLimitItem | None:
    return None if amount is None else RateLimitItemPerMinute(amount, namespace="minute")


def _stats(item: RateLimitItem, found: WindowStats) -> _Stats:
    return _Stats(item.amount, int(found.remaining), max(1, math.ceil(found.reset_time - time.time())))


def _pseudonym(call: Call) -> str:
    """A caller's name in Redis, which tells nobody who reads there who it is at a glance."""
    return sha256(call.identity.subject.encode()).hexdigest()[:32]
