"""What one server does at each rate: tabulated once, so that fleets of any size can be looked up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from loadtest.scaling.events import Cluster, Node
from loadtest.scaling.profile import Floats

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97)
"""Shares of the capacity that are simulated."""

# Equal bins, finer where percentiles are asked for.
_EDGES = np.concatenate(
    [np.arange(0, 0.9, 0.02), np.arange(0.9, 0.99, 0.01), np.arange(0.99, 0.999, 0.001), [0.999, 1.0]]
)
WEIGHTS: Floats = np.diff(_EDGES)
"""Shares of the requests in each bin of a latency distribution."""

_REQUESTS = 20_000
_WARM_UP = 0.1


@dataclass(frozen=True)
class Curve:
    """One server by its rate.

    Attributes:
        rates: Requests a second, rising, float64 [n].
        latency: Mean of each bin of :data:`WEIGHTS`, seconds, float64 [n, bins].
        busy: Share of the time that the engine works, float64 [n].
        pending: Requests that wait in Triton's queues, on average, float64 [n].
        batch: Mean batch of the engine, float64 [n].
        capacity: Requests a second that it can do at most.
    """

    rates: Floats
    latency: Floats
    busy: Floats
    pending: Floats
    batch: Floats
    capacity: float

    @classmethod
    def of(cls, node: Node, requests: int = _REQUESTS, seed: int = 0) -> Curve:
        """Simulate one server at each of :data:`SHARES` of its capacity, with Poisson arrivals.

        Args:
            node: The server.
            requests: At each rate.
            seed: Of everything that is drawn.
        """
        capacity = node.capacity
        points = [simulate(node, share * capacity, requests, seed) for share in SHARES]
        latency, busy, pending, batch = zip(*points, strict=True)
        return cls(
            rates=np.array(SHARES) * capacity,
            # More load is never faster; what the draw says otherwise is noise.
            latency=np.maximum.accumulate(np.array(latency), axis=0),
            busy=np.array(busy),
            pending=np.array(pending),
            batch=np.array(batch),
            capacity=capacity,
        )

    def at(self, rate: float) -> Floats:
        """Latency bins at a rate, seconds, float64 [bins]; beyond the table those of its end."""
        return np.asarray(self.many(np.array([rate]))[0])

    def many(self, rates: Floats) -> Floats:
        """Latency bins at many rates, float64 [len(rates), bins]."""
        place = np.interp(rates, self.rates, np.arange(self.rates.size))
        low = np.minimum(place.astype(np.int64), self.rates.size - 2)
        share = (place - low)[:, None]
        return np.asarray(self.latency[low] * (1 - share) + self.latency[low + 1] * share)

    def quantile(self, rate: float, share: float) -> float:
        """A percentile at a rate, seconds; infinite above the last rate of the table."""
        if rate > self.rates[-1]:
            return math.inf
        return weighted_quantile(self.at(rate), WEIGHTS, share)

    def highest_rate(self, p99_s: float, utilisation: float) -> float:
        """The highest rate that keeps the 99th percentile and a share of the capacity; 0 if none does."""
        top = min(utilisation * self.capacity, float(self.rates[-1]))
        fits = [float(rate) for rate in np.linspace(0, top, 401)[1:] if self.quantile(rate, 0.99) <= p99_s]
        return max(fits, default=0.0)


def simulate(node: Node, rate: float, requests: int, seed: int) -> tuple[Floats, float, float, float]:
    """One server under Poisson arrivals: latency bins, busy share, requests that wait, mean batch."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, requests))
    outcome = Cluster(node, seed=seed).run(arrivals)
    latency = outcome.latency[int(requests * _WARM_UP) :]
    latency = np.sort(latency[np.isfinite(latency)])
    places = np.round(_EDGES * latency.size).astype(np.int64)
    bins = [
        latency[start : max(end, start + 1)].mean()
        for start, end in zip(np.minimum(places[:-1], latency.size - 1), places[1:], strict=True)
    ]
    seconds = float(arrivals[-1])
    executions, texts = outcome.batches
    return (
        np.array(bins),
        outcome.busy_s / seconds / node.stages[-1].instances,
        outcome.waiting_s / seconds,
        texts / max(1, executions),
    )


def weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """The value below which ``share`` of the weight lies."""
    order = np.argsort(values)
    running = np.cumsum(weights[order])
    place = int(np.searchsorted(running, share * running[-1] * (1 - 1e-9)))
    return float(values[order[min(place, values.size - 1)]])
