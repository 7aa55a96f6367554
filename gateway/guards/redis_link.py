"""The way to Redis: a bound on every wait, and no wait at all while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis.asyncio
import structlog
from limits.aio.storage import RedisStorage
from redis.exceptions import RedisError

from gateway.errors import GatewayConfigError
from gateway.guards.metrics import REDIS_ERRORS, SHARED_LIMITS_DOWN

T = TypeVar("T")
logger = structlog.get_logger(__name__)

_PREFIX = "tritonforge"
_CONNECTIONS = 32
_PROBE_INTERVAL_S = 1.0
_SOCKET_TIMEOUT_S = 0.5  # or longer, where calls may take longer


class RedisUnavailableError(Exception):
    """Redis did not answer, or is known to be away."""


class RedisLink:
    """A pool of connections to one Redis.

    After a failure nobody waits for it any more; a task asks once a second whether it is back.

    Args:
        url: Where it is; it may hold a password, so it is never logged.
        timeout_s: Longest wait for one :meth:`ask`.

    Attributes:
        storage: What ``limits`` counts in.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        """Prepare the pool, and ask whether Redis is there; needs a running event loop."""
        self._timeout_s = timeout_s
        # A call that nobody waits for any more ends by itself, and gives its connection back.
        longest_s = max(timeout_s, _SOCKET_TIMEOUT_S)
        self._pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=longest_s,
            socket_connect_timeout=longest_s,
            socket_timeout=longest_s,
            client_name=_PREFIX,
        )
        self.storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=_PREFIX,
            connection_pool=self._pool,  # type: ignore[arg-type]  # limits passes it on
        )
        self._calls: set[asyncio.Task[Any]] = set()
        self._away = asyncio.Event()
        self._away.set()  # not known yet: the first probe says
        SHARED_LIMITS_DOWN.set(0)
        self._down = False
        self._probing = asyncio.get_running_loop().create_task(self._probe_while_away())

    async def ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something that asks Redis.

        Raises:
            RedisUnavailableError: It is away, or did not answer in time.
        """
        if self._away.is_set():
            raise RedisUnavailableError
        try:
            return await self._bounded(call())
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            REDIS_ERRORS.labels("timeout" if isinstance(error, TimeoutError) else "error").inc()
            if not self._away.is_set():  # of many that fail at once, one is enough for the log
                logger.warning("redis_failed", reason=_reason(error))
            self._away.set()
            raise RedisUnavailableError from None

    async def close(self) -> None:
        """Stop asking, and close the connections."""
        self._probing.cancel()
        await asyncio.gather(self._probing, *self._calls, return_exceptions=True)
        SHARED_LIMITS_DOWN.set(0)
        with contextlib.suppress(RedisError, OSError):
            await self._pool.disconnect()

    async def _bounded(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for so long and no longer.

        The call itself is not cancelled, neither by time nor with who waits: a connection that is given up
        in the middle of its way back to the pool would be lost to it.
        """
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=self._timeout_s)
        if not task.done():
            raise TimeoutError(f"no answer in {self._timeout_s * 1000:.0f} ms")
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, for where nobody waits any more

    async def _probe_while_away(self) -> None:
        while True:
            await self._away.wait()
            try:
                # Writes by a script, as counting does: a replica, or a Redis out of memory, is no help.
                await self._bounded(self.storage.incr("probe", 1))
            except (RedisError, OSError) as error:
                if not self._down:
                    logger.error("redis_away", reason=_reason(error))
                self._down = True
                SHARED_LIMITS_DOWN.set(1)
                await asyncio.sleep(_PROBE_INTERVAL_S)
            else:
                if self._down:
                    logger.info("redis_back")
                    await self._pool.disconnect(inuse_connections=False)  # those to the Redis that went
                self._down = False
                SHARED_LIMITS_DOWN.set(0)
                self._away.clear()


def redis_url(variable: str) -> str:
    """Read the URL of Redis from the environment.

    Raises:
        GatewayConfigError: The variable is missing or holds no such URL; its value is not repeated.
    """
    url = os.environ.get(variable, "")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits:
        what = "holds no URL of the form redis://[:password@]host:port/db" if url else "is not set"
        raise GatewayConfigError(
            f"shared limits need a Redis, and the environment variable {variable} {what}",
            where="limits.shared.redis_url_env",
            mend=f"export {variable}=redis://127.0.0.1:6379/0, or leave limits.shared out",
        )
    return url


def _reason(error: BaseException) -> str:
    """The kind of an error and what Redis said, which holds no password."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
