"""Limits of a user over all replicas, on a real Redis that is killed, halted and brought back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from gateway.config.limits import SharedLimits
from gateway.errors import ApiError, GatewayConfigError
from gateway.guards import redis_link
from gateway.guards.shared_limits import SharedLimiter
from gateway.tasks.call import Call
from tests.gateway.guards.conftest import PASSWORD, Redis

URL = "TRITONFORGE_REDIS_URL"
DOWN = "tritonforge_gateway_shared_limits_down"
SLACK_S = 10.0  # of a busy machine, on top of the longest wait

CallOf = Callable[[str], Call]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv(URL, raising=False)
    return monkeypatch


@contextlib.asynccontextmanager
async def limiter(**keys: Any) -> AsyncIterator[SharedLimiter]:
    made = SharedLimiter(SharedLimits(**keys))
    try:
        await reaches(lambda: connected(made) or bool(gauge()))
        yield made
    finally:
        await made.close()


async def reaches(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def connected(limits: SharedLimiter) -> bool:
    return not limits._link._away.is_set()


def gauge() -> float:
    return REGISTRY.get_sample_value(DOWN) or 0.0


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"tritonforge_gateway_{name}_total", labels) or 0.0


async def refused(limits: SharedLimiter, call: Call) -> ApiError:
    with pytest.raises(ApiError) as error:
        await limits.admit(call)
    return error.value


# -- counting


async def test_nothing_is_asked_where_nothing_is_limited(environment: Any, call_of: CallOf) -> None:
    for limits in (None, SharedLimits()):
        free, call = SharedLimiter(limits), call_of("alice")
        await free.admit(call)
        await free.charge(call, 10)
        await free.close()
        assert call.headers == {}


async def test_replicas_share_the_count_of_requests(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    before = counted("limited_requests", limit="requests")
    keys = {"requests_per_minute": 5, "timeout_ms": 20_000}
    async with limiter(**keys) as one, limiter(**keys) as other:
        left = []
        for number in range(5):
            await (one if number % 2 else other).admit(call := call_of("alice"))
            left.append(call.headers["ratelimit-remaining"])
        assert left == ["4", "3", "2", "1", "0"]
        for replica in (one, other):
            error = await refused(replica, call := call_of("alice"))
            assert error.code.name == "rate_limited" and "5 requests a minute" in error.what
            assert error.headers == call.headers
            assert call.headers["ratelimit-limit"] == "5" and call.headers["ratelimit-remaining"] == "0"
            assert 1 <= int(call.headers["ratelimit-reset"]) <= 60
            assert error.retry_after_s == int(call.headers["ratelimit-reset"])
        await one.admit(call_of("bob"))
    assert counted("limited_requests", limit="requests") == before + 2


async def test_a_flood_gets_exactly_what_is_allowed(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    keys = {"requests_per_minute": 50, "timeout_ms": 20_000}
    async with limiter(**keys) as one, limiter(**keys) as other:
        answers = await asyncio.gather(
            *(limits.admit(call_of("alice")) for limits in (one, other) for _ in range(100)),
            return_exceptions=True,
        )
    assert answers.count(None) == 50
    assert {answer.code.name for answer in answers if isinstance(answer, ApiError)} == {"rate_limited"}


async def test_tokens_are_debited_beyond_the_limit(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    keys = {"tokens_per_minute": 100, "requests_per_minute": 3, "timeout_ms": 20_000}
    async with limiter(**keys) as one, limiter(**keys) as other:
        await one.admit(call := call_of("alice"))
        assert call.headers["x-ratelimit-remaining-tokens"] == "100"
        await one.charge(call, 60)
        await other.admit(call := call_of("alice"))
        assert call.headers["x-ratelimit-remaining-tokens"] == "40"
        assert call.headers["x-ratelimit-limit-tokens"] == "100"
        await other.charge(call, 1000)  # the answer was longer than what was left
        error = await refused(one, call := call_of("alice"))
        assert error.code.name == "rate_limited" and "100 tokens a minute" in error.what
        assert call.headers["x-ratelimit-remaining-tokens"] == "0"
        assert call.headers["x-ratelimit-reset-tokens"] == f"{error.retry_after_s}s"
        assert error.retry_after_s is not None and 50 <= error.retry_after_s <= 60
        # What is refused for its tokens is not counted as a request.
        assert call.headers["ratelimit-remaining"] == "1"


async def test_redis_holds_no_names(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    async with limiter(requests_per_minute=5, tokens_per_minute=5, timeout_ms=20_000) as limits:
        await limits.admit(call := call_of("alice@example.org"))
        await limits.charge(call, 1)
    async with redis_client(redis) as client:
        keys = [key.decode() for key in await client.keys("*")]
        assert len(keys) >= 2 and all(key.startswith("tritonforge:") for key in keys)
        assert not any("alice" in key for key in keys)
        # Nothing stays for ever.
        assert all([0 < await client.ttl(key) <= 120 for key in keys])


@contextlib.asynccontextmanager
async def redis_client(server: Redis) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(port=server.port)
    try:
        yield client
    finally:
        await client.aclose()


# -- Redis away


async def test_killed_in_mid_flight_and_back(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    waits: list[float] = []
    timeout_s = 20.0

    async def ask(limits: SharedLimiter) -> bool:
        start = time.monotonic()
        try:
            await limits.admit(call_of("alice"))
        except ApiError as error:
            assert error.code.name == "rate_limited"
            return False
        finally:
            waits.append(time.monotonic() - start)
        return True

    keys = {"requests_per_minute": 20, "timeout_ms": int(timeout_s * 1000)}
    async with limiter(**keys) as limits:
        assert gauge() == 0
        assert all(await asyncio.gather(*(ask(limits) for _ in range(10))))
        flood = [asyncio.create_task(ask(limits)) for _ in range(300)]
        await asyncio.sleep(0.005)
        redis.kill()
        passed = sum(await asyncio.gather(*flood))
        # Some were let in by Redis, and then 20 more by this replica's own count.
        assert 20 <= passed <= 10 + 20
        await reaches(lambda: gauge() == 1)
        assert not await ask(limits)
        assert max(waits) < timeout_s  # it is gone, not silent: nobody waited so long

        # What nobody waits for any more could still be counted by the next Redis.
        await reaches(lambda: len(limits._link._calls) <= 1)
        redis.start()
        await reaches(lambda: gauge() == 0 and connected(limits))
        # It was a new Redis, and counts for itself.
        assert [await ask(limits) for _ in range(21)] == [True] * 20 + [False]
    assert counted("redis_errors", kind="error") + counted("redis_errors", kind="timeout") > 0


async def test_nobody_waits_for_a_redis_that_hangs(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    environment.setattr(redis_link, "_SOCKET_TIMEOUT_S", 60.0)  # nobody waits for that

    async def ask(limits: SharedLimiter) -> float:
        start = time.monotonic()
        await limits.admit(call := call_of("alice"))
        await limits.charge(call, 1)
        return time.monotonic() - start

    keys = {"requests_per_minute": 10_000, "tokens_per_minute": 10_000, "timeout_ms": 100}
    async with limiter(**keys) as limits:
        for _ in range(2):  # the second time all connections must be there again
            redis.signal(signal.SIGSTOP)
            waits = await asyncio.gather(*(ask(limits) for _ in range(40)))
            assert 0.1 <= max(waits) < 0.1 + SLACK_S
            await reaches(lambda: gauge() == 1)
            late = counted("redis_errors", kind="timeout")
            for _ in range(40):
                await ask(limits)
            assert counted("redis_errors", kind="timeout") == late  # not one of them waited
            redis.signal(signal.SIGCONT)
            await reaches(lambda: gauge() == 0 and connected(limits))
            for _ in range(40):
                await ask(limits)
            await reaches(lambda: connected(limits))
        async with redis_client(redis) as client:
            assert await client.info("clients") is not None
            names = [each["name"] for each in await client.client_list()]
            assert 1 <= names.count("tritonforge") <= 32


async def test_who_leaves_takes_no_connection_along(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    async with limiter(requests_per_minute=100_000, timeout_ms=20_000) as limits:
        for _ in range(3):
            tasks = [asyncio.create_task(limits.admit(call_of("alice"))) for _ in range(100)]
            await asyncio.sleep(0.003)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(limits.admit(call_of("alice")) for _ in range(100)))
        assert gauge() == 0


async def test_where_nobody_may_pass_without_redis(environment: Any, redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, redis.url)
    async with limiter(requests_per_minute=5, without_redis="refuse", timeout_ms=20_000) as limits:
        await limits.admit(call_of("alice"))
        redis.kill()
        for _ in range(2):
            error = await refused(limits, call_of("alice"))
            assert (error.code.name, error.retry_after_s) == ("unavailable", 1)
        await limits.charge(call_of("alice"), 5)  # the answer is there already


async def test_a_wrong_password(environment: Any, guarded_redis: Redis, call_of: CallOf) -> None:
    environment.setenv(URL, f"redis://:wrong-{PASSWORD}@127.0.0.1:{guarded_redis.port}")
    with capture_logs() as logs:
        async with limiter(requests_per_minute=2, timeout_ms=20_000) as limits:
            assert gauge() == 1
            await limits.admit(call_of("alice"))
            await limits.admit(call_of("alice"))
            assert (await refused(limits, call_of("alice"))).code.name == "rate_limited"
    assert "invalid username-password pair" in str(logs)
    assert PASSWORD not in str(logs)
    environment.setenv(URL, guarded_redis.url)
    async with limiter(requests_per_minute=2, timeout_ms=20_000) as limits:
        await limits.admit(call_of("alice"))
        assert gauge() == 0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "is not set"),
        ("", "is not set"),
        (f"http://:{PASSWORD}@redis:6379", "holds no URL of the form redis://"),
        (f"redis://:{PASSWORD}@", "holds no URL of the form redis://"),
        (f"redis://:{PASSWORD}@redis:seven", "holds no URL of the form redis://"),
    ],
)
async def test_the_url_comes_from_the_environment(environment: Any, value: str | None, says: str) -> None:
    if value is not None:
        environment.setenv("MY_REDIS", value)
    with pytest.raises(GatewayConfigError, match=says) as error:
        SharedLimiter(SharedLimits(redis_url_env="MY_REDIS", requests_per_minute=1))
    assert "MY_REDIS" in str(error.value) and PASSWORD not in str(error.value)
