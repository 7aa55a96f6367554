"""The chain against a simulation that knows nothing of it: text by text, the server takes what waits."""

from __future__ import annotations

import numpy as np
import pytest

from build_engines.estimate.queueing import (
    MOST_TEXTS,
    Service,
    closed_loop_rate,
    highest_rate,
    load_at,
    make_service,
)

COSTS, SHARES = (8.0, 24.0, 64.0, 192.0), (0.3, 0.4, 0.2, 0.1)
BATCH = 64


def batch_seconds(batch: float) -> float:
    return 0.001 + 0.0032 * batch


@pytest.fixture(scope="module")
def service() -> Service:
    return make_service(batch_seconds, BATCH, COSTS, SHARES)


def simulate(rate: float, count: int = 150_000, most: int = BATCH) -> tuple[float, float, float]:
    """p50, p99 and the mean batch of a single server, event by event."""
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    work = rng.choice(COSTS, count, p=SHARES) / float(np.dot(COSTS, SHARES))
    clock, first, batches = 0.0, 0, 0
    latencies = np.empty(count)
    while first < count:
        clock = max(clock, float(arrivals[first]))
        last = min(int(np.searchsorted(arrivals, clock, "right")), first + most)
        clock += batch_seconds(last - first) * float(work[first:last].mean())
        latencies[first:last] = clock - arrivals[first:last]
        first, batches = last, batches + 1
    return float(np.quantile(latencies, 0.5)), float(np.quantile(latencies, 0.99)), count / batches


@pytest.mark.parametrize("rate", [20, 100, 200, 250])
def test_percentiles_and_batches_agree_with_a_simulation(service: Service, rate: float) -> None:
    p50, p99, batch = simulate(rate)
    found = load_at(service, rate)
    assert found.p99_s == pytest.approx(p99, rel=0.15)
    assert found.p50_s == pytest.approx(p50, rel=0.25)  # a step function at low load
    assert found.mean_batch == pytest.approx(batch, rel=0.1)


def test_small_batches_agree_too() -> None:
    small = make_service(batch_seconds, 4, COSTS, SHARES)
    _, p99, batch = simulate(200, most=4)
    found = load_at(small, 200)
    assert found.p99_s == pytest.approx(p99, rel=0.15)
    assert found.mean_batch == pytest.approx(batch, rel=0.1)


def test_latency_grows_with_the_load_and_has_no_end_at_saturation(service: Service) -> None:
    percentiles = [load_at(service, share * service.capacity).p99_s for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert percentiles == sorted(percentiles)
    assert percentiles[0] >= service.idle_p99() * 0.95
    assert load_at(service, service.capacity).p99_s == float("inf")


def test_the_highest_rate_keeps_both_bounds(service: Service) -> None:
    tight = highest_rate(service, 0.05, 0.7)
    assert load_at(service, tight).p99_s <= 0.05
    assert load_at(service, tight * 1.05).p99_s > 0.05
    assert highest_rate(service, 10, 0.7) == pytest.approx(0.7 * service.capacity)
    assert highest_rate(service, service.idle_p99() * 0.9, 0.7) == 0


def test_a_queue_delay_and_an_overhead_are_paid_by_a_lone_text(service: Service) -> None:
    delayed = make_service(batch_seconds, BATCH, COSTS, SHARES, overhead_s=0.002, delay_s=0.003)
    assert delayed.idle_p99() == pytest.approx(service.idle_p99() + 0.005)


def test_texts_of_one_length_do_not_spread() -> None:
    same = make_service(batch_seconds, 4, (5.0,), (1.0,))
    assert np.allclose(same.seconds, same.means[:, None])


def test_what_does_not_grow_with_the_work_does_not_spread() -> None:
    fixed = make_service(batch_seconds, 8, COSTS, SHARES, fixed_s=1.0)
    assert np.allclose(fixed.seconds, fixed.means[:, None])


def test_a_closed_loop_computes_half_of_what_is_in_flight(service: Service) -> None:
    assert closed_loop_rate(service, 64) == pytest.approx(32 / float(service.means[31]))
    assert closed_loop_rate(service, 1) == pytest.approx(1 / float(service.means[0]))
    assert closed_loop_rate(service, 4096) == pytest.approx(service.capacity)


def test_huge_batches_are_planned_with_as_if_they_were_smaller() -> None:
    assert make_service(batch_seconds, 4096, COSTS, SHARES).max_batch == MOST_TEXTS
