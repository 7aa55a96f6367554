"""Waiting in front of a server that takes batches: how the 99th percentile grows with the load.

Triton's dynamic batcher is a bulk-service queue: when the engine becomes free it takes all that wait, up
to ``max_batch``, so batches grow with the load by themselves. With Poisson arrivals the number waiting at
the start of a service is a Markov chain (Bailey, "On queueing processes with bulk service", 1954; for
inference servers Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching", 2021).
The chain is solved numerically here; the latency's distribution follows from who arrives when.

Assumptions: arrivals are Poisson and divided evenly among replicas; a text waits for a whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Bins of the distribution of a batch's work about its mean: the slowest hundredth stands alone.
QUANTILE_SHARES = np.array([0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.04, 0.01])
_ARRIVAL_POINTS = 8  # moments within a service at which the tagged text arrives
_SATURATED = 0.98
_WAIT_BINS = 200
_DRAWS = 4000
MOST_TEXTS = 128
"""Larger batches are planned with as if they ended here: throughput is flat by then, and the chain is not."""


@dataclass(frozen=True)
class Service:
    """Times of one server.

    Attributes:
        seconds: float64 [max_batch, bins], time of a batch of 1 to max_batch texts in each bin of
            :data:`QUANTILE_SHARES`.
        overhead_s: Added to each latency: network, ensemble, tokenizer.
        delay_s: How long a text that finds the server idle waits for company (``max_queue_delay``).
    """

    seconds: Floats
    overhead_s: float = 0.0
    delay_s: float = 0.0

    @property
    def max_batch(self) -> int:
        """Texts of a batch at most."""
        return int(self.seconds.shape[0])

    @property
    def means(self) -> Floats:
        """Mean time of each batch size, float64 [max_batch]."""
        return np.asarray(self.seconds @ QUANTILE_SHARES)

    @property
    def capacity(self) -> float:
        """Texts a second when every batch is full."""
        return self.max_batch / float(self.means[-1])

    def idle_p99(self) -> float:
        """99th percentile of a text that finds the server idle: its own time only, seconds."""
        return self.overhead_s + self.delay_s + _weighted_quantile(self.seconds[0], QUANTILE_SHARES, 0.99)


@dataclass(frozen=True)
class Load:
    """What a server does at an arrival rate.

    Attributes:
        rate: Texts a second.
        p50_s: Median latency.
        p99_s: 99th percentile; infinite beyond saturation.
        mean_batch: Texts of a batch.
        busy: Share of the time that it computes.
    """

    rate: float
    p50_s: float
    p99_s: float
    mean_batch: float
    busy: float


def make_service(
    seconds: Callable[[float], float],
    max_batch: int,
    costs: tuple[float, ...],
    weights: tuple[float, ...],
    *,
    fixed_s: float = 0.0,
    overhead_s: float = 0.0,
    delay_s: float = 0.0,
) -> Service:
    """Tabulate a service: mean times by batch size, spread by what the texts of a batch cost.

    Args:
        seconds: Mean time of a batch of so many texts.
        max_batch: Largest batch.
        costs: Work of one text of each length of the mix, in any unit.
        weights: Shares of these lengths.
        fixed_s: Part of each time that does not grow with the work.
        overhead_s: As in :class:`Service`.
        delay_s: As in :class:`Service`.
    """
    max_batch = min(max_batch, MOST_TEXTS)
    means = np.array([seconds(batch) for batch in range(1, max_batch + 1)])
    fixed = np.minimum(means, fixed_s)
    spread = _work_factors(max_batch, costs, weights)
    return Service(fixed[:, None] + (means - fixed)[:, None] * spread, overhead_s, delay_s)


@lru_cache(maxsize=8)
def _work_factors(max_batch: int, costs: tuple[float, ...], weights: tuple[float, ...]) -> Floats:
    """Work of a batch over its mean, by bins of the distribution: float64 [max_batch, bins], means 1."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(np.arange(1, max_batch + 1)[:, None], weights, size=(max_batch, _DRAWS))
    drawn = np.sort(counts @ np.array(costs), axis=1)
    starts = np.round(_DRAWS * np.concatenate(([0.0], np.cumsum(QUANTILE_SHARES)[:-1]))).astype(np.int64)
    # Means of the bins, not their middles: those would lose the tail's weight.
    found = np.add.reduceat(drawn, starts, axis=1) / (_DRAWS * QUANTILE_SHARES)
    return np.asarray(found / (found @ QUANTILE_SHARES)[:, None])


def load_at(service: Service, rate: float) -> Load:
    """Latency and batches of one server at an arrival rate.

    Args:
        service: The server.
        rate: Texts a second, Poisson.
    """
    if rate >= _SATURATED * service.capacity:
        return Load(rate, math.inf, math.inf, service.max_batch, 1.0)
    waiting = _stationary(service, rate)
    batch = np.minimum(np.maximum(np.arange(waiting.size), 1), service.max_batch)
    mean_service = float(waiting @ service.means[batch - 1])
    idle = float(waiting[0]) / rate
    latencies, weights = _latencies(service, rate, waiting)
    return Load(
        rate=rate,
        p50_s=_weighted_quantile(latencies, weights, 0.5),
        p99_s=_weighted_quantile(latencies, weights, 0.99),
        mean_batch=float(waiting @ batch),
        busy=mean_service / (mean_service + idle),
    )


def highest_rate(service: Service, p99_s: float, utilisation: float) -> float:
    """The highest arrival rate of one server that keeps the percentile and the utilisation; 0 if none does.

    Args:
        service: The server.
        p99_s: Highest 99th percentile of the latency, seconds.
        utilisation: Highest share of the capacity.
    """
    if service.idle_p99() > p99_s:
        return 0.0
    high = utilisation * service.capacity
    if load_at(service, high).p99_s <= p99_s:
        return high
    low = 0.0
    for _ in range(10):
        middle = (low + high) / 2
        if load_at(service, middle).p99_s <= p99_s:
            low = middle
        else:
            high = middle
    return low


def closed_loop_rate(service: Service, in_flight: int) -> float:
    """Texts a second with so many clients that each send the next text when the last is answered.

    While a batch is computed the others wait and make the next one: half of the texts in flight.
    """
    if in_flight == 1:
        return 1 / (float(service.means[0]) + service.overhead_s)
    batch = min(service.max_batch, in_flight // 2)
    return batch / float(service.means[batch - 1])


def _stationary(service: Service, rate: float) -> Floats:
    """Distribution of the number waiting when the server becomes free, float64 [states]; state 0 is idle."""
    top = service.max_batch
    states = 4 * top + 64
    arrivals = np.einsum("bqk,q->bk", _poisson(rate * service.seconds, states), QUANTILE_SHARES)
    matrix = np.zeros((states, states))
    for waiting in range(states):
        taken = min(max(waiting, 1), top)
        left = max(waiting, 1) - taken
        matrix[waiting, left:] = arrivals[taken - 1, : states - left]
    matrix[:, -1] += 1 - matrix.sum(axis=1)  # what would lie beyond the table
    system = np.vstack([(matrix.T - np.eye(states))[:-1], np.ones(states)])
    found = np.linalg.solve(system, np.concatenate([np.zeros(states - 1), [1.0]]))
    positive: Floats = np.maximum(found, 0)
    return positive / float(positive.sum())


def _latencies(service: Service, rate: float, waiting: Floats) -> tuple[Floats, Floats]:
    """Latencies of a tagged text and their weights.

    A text that arrives u seconds into a service of s waits s - u, then for the full batches ahead of it,
    then for its own batch, whose other members are all that arrived in s besides it.
    """
    top = service.max_batch
    states = np.flatnonzero(waiting > 1e-5)
    left = np.maximum(np.maximum(states, 1) - top, 0)
    taken = np.maximum(states, 1) - left
    seconds = service.seconds[taken - 1]  # [states, bins]
    others = _poisson(rate * seconds, int(waiting.size))  # [states, bins, count]
    others = others[..., : 1 + int(np.flatnonzero(others.max(axis=(0, 1)) > 1e-7)[-1])]
    moments = (np.arange(_ARRIVAL_POINTS) + 0.5) / _ARRIVAL_POINTS
    shape = (states.size, QUANTILE_SHARES.size, _ARRIVAL_POINTS, others.shape[-1])
    count = np.arange(others.shape[-1])
    ahead = left[:, None, None, None] + np.rint(count * moments[:, None])[None, None]
    total = left[:, None, None, None] + 1 + count
    full = ahead // top
    own = np.clip(total - full * top, 1, top).astype(np.int64)
    wait = seconds[:, :, None, None] * (1 - moments[:, None])
    # Longer services see more arrivals.
    weight = (waiting[states, None] * QUANTILE_SHARES * rate * seconds)[:, :, None, None]
    weight = np.broadcast_to(weight * others[:, :, None, :] / _ARRIVAL_POINTS, shape)
    width = (float(wait.max()) + 1e-9) / _WAIT_BINS
    most = int(full.max()) + 1
    cell = ((wait / width).astype(np.int64) * most + full.astype(np.int64)) * top + own - 1
    table = np.bincount(np.broadcast_to(cell, shape).ravel(), weights=weight.ravel())
    cells = np.flatnonzero(table > 1e-8 * table.sum())
    rest, own = np.divmod(cells, top)
    waits, full = np.divmod(rest, most)
    # Batches ahead are full; their sum spreads by the root of their number.
    mean = service.means[-1]
    ahead_s = full[:, None] * mean + np.sqrt(full)[:, None] * (service.seconds[-1] - mean)
    queued = ((waits + 0.5) * width)[:, None, None] + ahead_s[:, :, None] + service.seconds[own][:, None, :]
    queued_weight = table[cells][:, None, None] * QUANTILE_SHARES[:, None] * QUANTILE_SHARES
    idle = service.seconds[0] + service.delay_s
    latencies = np.concatenate([queued.ravel(), idle]) + service.overhead_s
    weights = np.concatenate([queued_weight.ravel(), waiting[0] * QUANTILE_SHARES])
    return latencies, weights


def _poisson(mean: Floats, size: int) -> Floats:
    """Probabilities of 0 to size - 1 arrivals; a new last axis."""
    count = np.arange(size)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, size)))))
    safe = np.maximum(mean, 1e-300)[..., None]
    return np.asarray(np.exp(count * np.log(safe) - safe - log_factorial))


def _weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """The value below which ``share`` of the weight lies."""
    order = np.argsort(values)
    running = np.cumsum(weights[order])
    position = int(np.searchsorted(running, share * running[-1]))
    return float(values[order[min(position, order.size - 1)]])
