"""How much one caller may ask for, and how much all together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.sections import NonNegativeInt, PositiveInt, Seconds, Section


class TokenBucket(Section):
    """So many requests a second, and so many at once after a pause."""

    per_second: PositiveInt = 10
    burst: PositiveInt = 30


class SharedLimits(Section):
    """Limits of a user over all replicas of this gateway, counted in Redis."""

    redis_url_env: str = Field(
        default="TRITONFORGE_REDIS_URL",
        description="environment variable with redis://[:password@]host:port/db",
    )
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    without_redis: Literal["local", "refuse"] = Field(
        default="local",
        description="what holds while Redis is away: the same limits counted by this replica alone, or none "
        "may pass",
    )
    timeout_ms: PositiveInt = Field(default=50, description="longest wait for Redis on a request's way")

    @property
    def limited(self) -> bool:
        """Whether anything is limited."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


class Limits(Section):
    """All limits on requests; beyond them the answer is 429 or 413."""

    local: TokenBucket | None = Field(
        default=TokenBucket(), description="of each caller, in this gateway alone; null: none"
    )
    address: TokenBucket | None = Field(
        default=TokenBucket(per_second=50, burst=200),
        description="of each client address, before anybody is known; null: none",
    )
    shared: SharedLimits | None = None
    max_body_bytes: PositiveInt = 4 << 20
    max_json_depth: PositiveInt = 32
    max_texts: PositiveInt = Field(default=256, description="texts in one request")
    max_text_bytes: PositiveInt = Field(default=1 << 20, description="UTF-8 bytes of one text")
    max_connections: PositiveInt = Field(default=4096, description="open client connections")


class WebSockets(Section):
    """Bounds on ``/ws/generate``."""

    max_open: PositiveInt = 256
    max_open_per_user: PositiveInt = 256
    ping_interval_s: Seconds = 20
    ping_timeout_s: Seconds = 20
    send_timeout_s: Seconds = Field(
        default=30, description="a reader that takes nothing for so long is cut off"
    )


class AnswerCache(Section):
    """Answers kept in the facade's memory, for the same question asked again of a deterministic model."""

    enabled: bool = True
    entries: PositiveInt = 10_000
    ttl_s: Seconds = 3600


class Screen(Section):
    """Patterns (RE2) that a text must not hold; a coarse sieve, see docs/gateway_limits.md."""

    deny: tuple[str, ...] = ()
    max_bytes: NonNegativeInt = Field(
        default=1 << 20, description="longer texts are refused where patterns are given"
    )
