"""Keeps the regions of each pool in the order of their distance; which are healthy is Envoy's to know."""

from __future__ import annotations

import asyncio
import math
import ssl
import statistics
import time
from collections.abc import Mapping, Sequence

import httpx
import structlog

from gateway.config import GatewayConfig
from gateway.config.pools import Region
from gateway.envoy.clusters import write_clusters
from gateway.envoy.endpoints import addresses
from gateway.paths import RunPaths

logger = structlog.get_logger(__name__)

INTERVAL_S = 10.0
_PROBES = 5
_SERVERS = 3
_TIMEOUT_S = 1.0
# A region must be nearer by so much, for so many rounds, before it overtakes another.
_MARGIN = 0.2
_MARGIN_MS = 1.0
_ROUNDS = 3


class RegionOrder:
    """An order by latency that noise does not change.

    Args:
        names: Regions as the configuration lists them.
        first: The gateway's own region, which stays in front whatever is measured.

    Attributes:
        order: The regions, the preferred one first.
        latencies_ms: The last known round trip of each; infinite where none is known.
    """

    def __init__(self, names: Sequence[str], first: str | None = None) -> None:
        """Start with the order of the configuration."""
        self._first = first
        self.order = tuple(sorted(names, key=lambda name: name != first))
        self.latencies_ms = dict.fromkeys(names, math.inf)
        self._proposal: tuple[str, ...] = self.order
        self._rounds = 0
        self._measured = False

    def observe(self, latencies_ms: Mapping[str, float | None]) -> tuple[str, ...]:
        """Take a round of measurements and give the order from now on.

        Args:
            latencies_ms: Round trips by region; None where nobody answered, which changes nothing: whether a
                region serves is not a question of its distance.
        """
        self.latencies_ms |= {name: ms for name, ms in latencies_ms.items() if ms is not None}
        if not self._measured:
            # There is nothing to hold on to yet.
            self._measured = any(ms is not None for ms in latencies_ms.values())
            self.order = tuple(sorted(self.order, key=lambda n: (n != self._first, self.latencies_ms[n])))
            return self.order
        proposal = self._by_clear_differences()
        self._rounds = self._rounds + 1 if proposal == self._proposal else 1
        self._proposal = proposal
        if self._rounds >= _ROUNDS:
            self.order = proposal
        return self.order

    def _by_clear_differences(self) -> tuple[str, ...]:
        """The order after every neighbour that is clearly nearer has overtaken."""
        found = list(self.order)
        for _ in found:
            for place in range(len(found) - 1):
                before, after = found[place : place + 2]
                if before != self._first and self._clearly_nearer(after, before):
                    found[place : place + 2] = [after, before]
        return tuple(found)

    def _clearly_nearer(self, name: str, than: str) -> bool:
        ours, theirs = self.latencies_ms[name], self.latencies_ms[than]
        return ours < theirs * (1 - _MARGIN) - _MARGIN_MS


class Regions:
    """Measures the regions while the gateway runs, and tells Envoy when their order changes.

    Args:
        config: ``gateway.yaml``; a region with ``latency_ms`` is not measured.
        paths: Where Envoy's clusters are written.
        interval_s: From one round of measurements to the next.

    Attributes:
        pools: Order and latencies of each pool's home regions.
        changes: How often an order has changed.
    """

    def __init__(self, config: GatewayConfig, paths: RunPaths, interval_s: float = INTERVAL_S) -> None:
        """Nothing is measured yet."""
        self._config = config
        self._paths = paths
        self._interval_s = interval_s
        self.pools = {
            pool.name: RegionOrder([each.name for each in pool.home_regions], config.region)
            for pool in config.pools
        }
        self._written = {pool: order.order for pool, order in self.pools.items()}
        self.changes = 0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                logger.exception("regions_not_measured")
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """Measure every region once, and write the clusters if an order has changed."""
        regions = {
            (pool.name, region.name): region
            for pool in self._config.pools
            if len(pool.home_regions) > 1
            for region in pool.home_regions
        }
        measured = dict(zip(regions, await asyncio.gather(*map(latency_ms, regions.values())), strict=True))
        orders = {
            pool: order.observe({region: ms for (of, region), ms in measured.items() if of == pool})
            for pool, order in self.pools.items()
        }
        if orders == self._written:
            return
        write_clusters(self._config, self._paths, orders)
        changed = {pool: order for pool, order in orders.items() if order != self._written[pool]}
        self._written = orders
        self.changes += len(changed)
        for pool, order in changed.items():
            latencies = {name: round(ms, 1) for name, ms in self.pools[pool].latencies_ms.items()}
            logger.info("regions_ordered", pool=pool, order=order, latencies_ms=latencies)


async def latency_ms(region: Region) -> float | None:
    """Round trip to a region: the median of a few ``GET /v2/health/live`` on open connections.

    Returns:
        Milliseconds; ``latency_ms`` where the configuration gives it; None where nobody answers.
    """
    if region.latency_ms is not None:
        return region.latency_ms
    tls = region.tls or region.ca_file is not None
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=region.ca_file) if tls else False
    # Closed after each round: a Triton that stops waits for open HTTP connections.
    async with httpx.AsyncClient(verify=verify, timeout=_TIMEOUT_S, trust_env=False) as client:
        urls = [_live_url(host, port, tls) for host, port in addresses(region, "http")[:_SERVERS]]
        found = [ms for times in await asyncio.gather(*(_probe(client, url) for url in urls)) for ms in times]
    return statistics.median(found) if found else None


def _live_url(host: str, port: int, tls: bool) -> str:
    host = host.removesuffix(".")
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{port}/v2/health/live"


async def _probe(client: httpx.AsyncClient, url: str) -> list[float]:
    """Milliseconds of each probe; none if the server does not answer."""
    times = []
    try:
        await client.get(url)  # opens the connection
        for _ in range(_PROBES):
            started = time.perf_counter()
            await client.get(url)
            times.append((time.perf_counter() - started) * 1000)
    except (httpx.HTTPError, OSError) as error:
        logger.debug("region_probe_failed", url=url, reason=str(error))
    return times
