"""A fleet of any size with an autoscaler, second by second.

Requests are a fluid here. While the fleet keeps up, each replica has its share of the rate, and latencies
are those of :class:`~loadtest.scaling.curve.Curve` at that rate. What comes above the capacity is a backlog
that all replicas share; who joins it waits until it is gone. ``tests/loadtest/scaling`` hold this against the
simulation of single requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.scaling.autoscaler import Autoscaler, MetricKind, Seen
from loadtest.scaling.curve import WEIGHTS, Curve
from loadtest.scaling.pods import Platform, Pods
from loadtest.scaling.profile import Floats
from loadtest.scaling.traces import Trace

_BINS = np.geomspace(1e-4, 1e4, 4001)


@dataclass(frozen=True)
class Looking:
    """How the autoscaler sees the pods.

    Attributes:
        window_s: Its metric is the mean over so long.
        lag_s: And so old: scrape interval, adapter.
    """

    window_s: int = 30
    lag_s: int = 15


@dataclass(frozen=True)
class Story:
    """What happened.

    Attributes:
        rates: Requests that came, each second, float64 [seconds].
        ready: Pods that served, float64 [seconds].
        replicas: Pods that were asked for, float64 [seconds].
        waiting: Backlog, in requests, float64 [seconds].
        failed: Requests that nobody served in time, float64 [seconds].
        late: Requests over the objective, the failed ones included, float64 [seconds].
        p50_s: Median latency of those served.
        p99_s: 99th percentile of those served.
        node_hours: Paid for.
        cost: At the platform's price.
        started: Pods that were started.
    """

    rates: Floats
    ready: Floats
    replicas: Floats
    waiting: Floats
    failed: Floats
    late: Floats
    p50_s: float
    p99_s: float
    node_hours: float
    cost: float
    started: int

    @property
    def requests(self) -> float:
        """All that came."""
        return float(self.rates.sum())

    @property
    def late_share(self) -> float:
        """Of all requests, those over the objective or failed."""
        return float(self.late.sum() / max(1.0, self.requests))

    @property
    def failed_share(self) -> float:
        """Of all requests, those that were not served."""
        return float(self.failed.sum() / max(1.0, self.requests))


def run_fleet(
    curve: Curve,
    trace: Trace,
    autoscaler: Autoscaler,
    platform: Platform,
    *,
    start: int,
    objective_s: float,
    cores_at: Floats,
    requested_cores: float,
    timeout_s: float = 30.0,
    holds: bool = False,
    looking: Looking | None = None,
    seed: int = 0,
) -> Story:
    """Let a trace come to a fleet.

    Args:
        curve: One replica.
        trace: Requests a second.
        autoscaler: Decides on replicas; its state is used up.
        platform: How pods start, and what nodes cost.
        start: Replicas that are ready at the beginning.
        objective_s: Latency that requests shall keep.
        cores_at: CPUs that one replica uses at each rate of the curve, float64 [n].
        requested_cores: What ``cpu`` is a share of.
        timeout_s: A caller waits so long; those who would wait longer have failed.
        holds: Requests wait also while there is no replica (an activator); otherwise they fail then.
        looking: How the autoscaler sees the pods.
        seed: Of the Poisson counts.
    """
    looking = looking or Looking()
    rng = np.random.default_rng(seed)
    seconds = trace.seconds
    came = trace.rates if trace.recorded else rng.poisson(trace.rates).astype(np.float64)
    pods = Pods(platform, start)
    ready, replicas, waiting, failed, delay, share = (np.zeros(seconds) for _ in range(6))
    usage: dict[MetricKind, Floats] = {kind: np.zeros(seconds) for kind in ("cpu", "pending", "rate")}
    backlog, next_sync = 0.0, autoscaler.sync_s
    for second in range(seconds):
        pods.step(second, 1.0)
        capacity = pods.ready * curve.capacity
        offered = backlog + came[second]
        served = min(offered, capacity)
        backlog = offered - served
        # The last of this second's requests finds all of the backlog before it.
        most = capacity * timeout_s if pods.ready or not holds else np.inf
        failed[second] = max(0.0, backlog - most)
        backlog -= failed[second]
        ready[second], waiting[second] = pods.ready, backlog
        replicas[second] = pods.ready + pods.starting
        if pods.ready:
            share[second] = served / pods.ready
            delay[second] = backlog / capacity
            usage["cpu"][second] = (
                pods.ready * np.interp(share[second], curve.rates, cores_at) / requested_cores
            )
            usage["pending"][second] = backlog + pods.ready * np.interp(
                share[second], curve.rates, curve.pending
            )
        usage["rate"][second] = served if pods.ready else came[second]
        if second + 1 >= next_sync:
            next_sync += autoscaler.sync_s
            end = max(1, second + 1 - looking.lag_s)
            window = slice(max(0, end - looking.window_s), end)
            alive = float(ready[window].mean())
            # A mean over pods that were ready in the window, for those that are now.
            scale = pods.ready / alive if alive else 1.0
            seen = {
                kind: Seen(pods.ready, pods.starting, float(values[window].mean()) * scale)
                for kind, values in usage.items()
            }
            external = {
                metric.kind: Seen(pods.ready, pods.starting, float(usage[metric.kind][window].mean()))
                for metric in autoscaler.metrics
                if metric.external
            }
            active = bool(came[window].any() or backlog)
            pods.resize(second, autoscaler.decide(second, {**seen, **external}, active=active))
    late, p50, p99 = _latencies(curve, came, share, delay, failed, objective_s, ready)
    hours = pods.node_seconds / 3600
    return Story(
        rates=came,
        ready=ready,
        replicas=replicas,
        waiting=waiting,
        failed=failed,
        late=late,
        p50_s=p50,
        p99_s=p99,
        node_hours=hours,
        cost=hours * platform.node_price,
        started=pods.started,
    )


def _latencies(
    curve: Curve,
    came: Floats,
    share: Floats,
    delay: Floats,
    failed: Floats,
    objective_s: float,
    ready: Floats,
) -> tuple[Floats, float, float]:
    """Late requests of each second, and the percentiles of those that were served."""
    histogram = np.zeros(_BINS.size - 1)
    late = np.zeros(came.size)
    served = np.maximum(came - failed, 0.0)
    for start in range(0, came.size, 4096):
        part = slice(start, start + 4096)
        bins = curve.many(share[part]) + delay[part, None]
        # Nobody was there: they wait until somebody is, which the backlog's own seconds tell.
        weight = served[part, None] * WEIGHTS * (ready[part, None] > 0)
        histogram += np.histogram(np.clip(bins, _BINS[0], _BINS[-1] * 0.999), _BINS, weights=weight)[0]
        late[part] = (weight * (bins > objective_s)).sum(axis=1) + np.minimum(failed[part], came[part])
        late[part] += np.where(ready[part] > 0, 0.0, served[part])
    running = np.cumsum(histogram)
    if not running[-1]:
        return late, float("inf"), float("inf")
    p50, p99 = (float(_BINS[1 + int(np.searchsorted(running, q * running[-1]))]) for q in (0.5, 0.99))
    return late, p50, p99
