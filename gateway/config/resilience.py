"""What happens when servers are slow, full or gone; all of it is Envoy's doing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.sections import NonNegativeInt, PositiveInt, Seconds, Section

Percent = Annotated[float, Field(ge=0, le=100)]


class Breakers(Section):
    """Envoy's circuit breakers of one region of a pool; beyond them the answer is 503 at once."""

    max_connections: PositiveInt = 1024
    max_pending_requests: PositiveInt = 256
    max_requests: PositiveInt = Field(default=512, description="requests in flight; the bound of the queue")


class Retries(Section):
    """Tries of a request on another server; inference changes nothing, so it may be asked again."""

    attempts: NonNegativeInt = Field(default=2, description="further tries; 0: none")
    budget_percent: Percent = Field(
        default=20, description="of breakers.max_requests that may be retries at one time"
    )
    min_concurrency: PositiveInt = Field(default=10, description="retries allowed whatever the budget is")
    per_try_timeout_s: Seconds = 10
    hedge: bool = Field(default=False, description="ask a second server when a try takes too long")


class HealthChecks(Section):
    """``/v2/health/ready`` and gRPC health of every server."""

    interval_s: Seconds = 2
    timeout_s: Seconds = 1
    unhealthy_after: PositiveInt = 3
    healthy_after: PositiveInt = 1


class Outliers(Section):
    """A server that resets or times out in a row is left out for a while."""

    consecutive_failures: PositiveInt = 5
    ejection_s: Seconds = 10
    max_ejected_percent: Percent = 50


class Resilience(Section):
    """Deadlines, breakers, retries, health."""

    request_timeout_s: Seconds = Field(default=30, description="of a request with one answer")
    stream_timeout_s: Seconds = Field(default=600, description="of a streamed answer, in all")
    stream_idle_timeout_s: Seconds = Field(
        default=60,
        description="of silence in a streamed answer: before its first part another server is asked, later "
        "it ends",
    )
    connect_timeout_s: Seconds = 1
    breakers: Breakers = Breakers()
    retries: Retries = Retries()
    health: HealthChecks = HealthChecks()
    outliers: Outliers = Outliers()
    slow_start_s: Seconds = Field(default=10, description="a new server gets its full share after so long")
    drain_s: Seconds = Field(default=30, description="how long a stop waits for requests in flight")
    adaptive_concurrency: bool = Field(
        default=False, description="Envoy finds the bound of requests in flight by itself, from latency"
    )
    retry_after_s: PositiveInt = Field(default=1, description="Retry-After of a 503")
