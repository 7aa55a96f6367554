"""Sends the excess of a pool's load to its overflow region; Envoy splits by weights that are set here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import structlog

from gateway.config import GatewayConfig
from gateway.control.admin import Admin
from gateway.envoy.pools import overflow_weights

logger = structlog.get_logger(__name__)

INTERVAL_S = 1.0
_IN_FLIGHT = r"^cluster\.[a-z0-9-]+/[a-z0-9-]+/(http|grpc)\.upstream_rq_(active|pending_active)$"


class OverflowShare:
    """How much of a pool's load its overflow takes.

    Above the load it takes the excess over the whole. At or below, the share stays as it was, until the load
    has been low for long enough without a break; then home serves all again.

    Args:
        above: Requests in flight that home takes alone.
        give_back_after_s: How long the load must be low.

    Attributes:
        percent: The share now, 0 to 100.
    """

    def __init__(self, above: int, give_back_after_s: float) -> None:
        """Start with everything at home."""
        self._above = above
        self._give_back_after_s = give_back_after_s
        self._low_since: float | None = None
        self.percent = 0

    def observe(self, in_flight: int, now: float) -> int:
        """Take a measurement and give the share from now on.

        Args:
            in_flight: Requests in the pool, those at its overflow included.
            now: Seconds, on a clock that never goes back.
        """
        if in_flight > self._above:
            self._low_since = None
            self.percent = -(-100 * (in_flight - self._above) // in_flight)
        elif self.percent:
            if self._low_since is None:
                self._low_since = now
            if now - self._low_since >= self._give_back_after_s:
                self._low_since = None
                self.percent = 0
        return self.percent


class Overflow:
    """Watches the load of each pool that has an overflow, and sets the share in a running Envoy.

    Args:
        config: ``gateway.yaml``.
        admin: Envoy's admin socket.
        interval_s: From one look to the next.

    Attributes:
        in_flight: Requests in each pool at the last look.
        shares: State of each pool.
    """

    def __init__(self, config: GatewayConfig, admin: Path, interval_s: float = INTERVAL_S) -> None:
        """Everything is at home, as Envoy starts too."""
        self._admin = admin
        self._interval_s = interval_s
        self.shares = {
            pool.name: OverflowShare(pool.overflow.above, pool.overflow.give_back_after_s)
            for pool in config.pools
            if pool.overflow is not None
        }
        self.in_flight = dict.fromkeys(self.shares, 0)

    async def run(self) -> None:
        """Watch until cancelled; an Envoy that does not answer is asked again at the next look."""
        heard = True
        async with Admin(self._admin) as admin:
            while True:
                try:
                    await self.look(admin)
                    heard = True
                except (httpx.HTTPError, OSError) as error:
                    if heard:
                        logger.warning("overflow_not_steered", reason=str(error) or type(error).__name__)
                    heard = False
                except Exception:
                    logger.exception("overflow_not_steered")
                await asyncio.sleep(self._interval_s)

    async def look(self, admin: Admin) -> None:
        """Measure once and set what follows.

        Raises:
            httpx.HTTPError: Envoy does not answer.
        """
        if not self.shares:
            return
        loads = dict.fromkeys(self.shares, 0)
        for name, value in (await admin.stats(_IN_FLIGHT)).items():
            pool = name.removeprefix("cluster.").partition("/")[0]
            if pool in loads:
                loads[pool] += value
        self.in_flight = loads
        now = asyncio.get_running_loop().time()
        for pool, share in self.shares.items():
            before = share.percent
            percent = share.observe(loads[pool], now)
            if percent or before:
                # Also where nothing changed: Envoy may have been started anew.
                weights = overflow_weights(pool, percent)
                await admin.post("/runtime_modify", **{key: str(value) for key, value in weights.items()})
            if bool(percent) != bool(before):
                event = "overflow_opened" if percent else "overflow_closed"
                logger.info(event, pool=pool, in_flight=loads[pool], percent=percent)
