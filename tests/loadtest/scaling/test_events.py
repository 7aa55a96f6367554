"""The simulation of single requests, beside queueing formulas and the chain that `estimate` solves."""

from __future__ import annotations

import numpy as np
import pytest

from build_engines.estimate.queueing import load_at, make_service
from loadtest.scaling.curve import WEIGHTS, Curve, simulate, weighted_quantile
from loadtest.scaling.events import Cluster, Node, Timing


def linear(fixed: float, each: float, most: int) -> tuple[float, ...]:
    return tuple(fixed + each * batch for batch in range(1, most + 1))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_at_a_time_is_the_md1_queue(load: float) -> None:
    service = 0.01
    node = Node((Timing(1, 1, 0.0, 0, (service,)),))
    latency, busy, waiting, batch = simulate(node, load / service, 60_000, seed=3)
    # Pollaczek and Khinchine, constant service.
    expected = service * load / (2 * (1 - load))
    assert float(latency @ WEIGHTS) - service == pytest.approx(expected, rel=0.1)
    assert busy == pytest.approx(load, rel=0.03)
    assert waiting == pytest.approx(expected * load / service, rel=0.1)  # Little
    assert batch == 1


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
def test_batches_grow_as_the_estimates_chain_says(load: float) -> None:
    table = linear(0.004, 0.002, 32)
    costs, weights = (0.3, 1.0, 2.9), (0.4, 0.4, 0.2)
    mean = sum(cost * weight for cost, weight in zip(costs, weights, strict=True))
    costs = tuple(cost / mean for cost in costs)
    node = Node((Timing(1, 32, 0.0, 0, table, fixed_s=0.004),), 0.001, costs, weights)
    service = make_service(
        lambda batch: table[round(batch) - 1], 32, costs, weights, fixed_s=0.004, overhead_s=0.001
    )
    theory = load_at(service, load * node.capacity)
    latency, busy, _, batch = simulate(node, load * node.capacity, 40_000, seed=5)
    assert weighted_quantile(latency, WEIGHTS, 0.5) == pytest.approx(theory.p50_s, rel=0.1)
    assert weighted_quantile(latency, WEIGHTS, 0.99) == pytest.approx(theory.p99_s, rel=0.15)
    assert batch == pytest.approx(theory.mean_batch, rel=0.1)
    assert busy == pytest.approx(theory.busy, rel=0.05)


def test_a_full_queue_refuses() -> None:
    node = Node((Timing(1, 1, 0.0, 2, (1.0,)),))
    outcome = Cluster(node).run([0.0, 0.1, 0.2, 0.3, 0.4])
    assert outcome.latency[:3] == pytest.approx([1.0, 1.9, 2.8])
    assert np.isnan(outcome.latency[3:]).all()


def test_a_batch_waits_for_company_no_longer_than_its_delay() -> None:
    node = Node((Timing(1, 4, 0.5, 0, (1.0, 1.0, 1.0, 1.0)),))
    outcome = Cluster(node).run([0.0, 0.2, 10.0, 10.1, 10.2, 10.3])
    assert outcome.latency == pytest.approx([1.5, 1.3, 1.3, 1.2, 1.1, 1.0])
    assert outcome.batches == [2, 6]


def test_two_instances_work_side_by_side() -> None:
    node = Node((Timing(2, 1, 0.0, 0, (1.0,)),))
    assert Cluster(node).run([0.0, 0.0, 0.0]).latency == pytest.approx([1.0, 1.0, 2.0])


def test_a_request_passes_every_stage() -> None:
    node = Node((Timing(1, 8, 0.0, 0, (0.1,) * 8), Timing(1, 8, 0.0, 0, (1.0,) * 8)), overhead_s=0.01)
    # The second is through the tokenizer while the engine works, and waits for it.
    assert Cluster(node).run([0.0, 0.5]).latency == pytest.approx([1.11, 1.61])


def test_choosing_the_idler_of_some_beats_one_queue_each() -> None:
    node = Node((Timing(1, 1, 0.0, 0, (0.01,)),))
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / (8 * 80), 30_000))
    shared = Cluster(node, 8).run(arrivals).latency
    alone = Cluster(node, 1).run(np.cumsum(rng.exponential(1 / 80, 30_000))).latency
    assert np.percentile(shared, 99) < 0.6 * np.percentile(alone, 99)


def test_the_curve_rises_and_ends() -> None:
    node = Node((Timing(1, 16, 0.0, 0, linear(0.004, 0.002, 16)),))
    curve = Curve.of(node, 3000)
    p99 = [curve.quantile(float(rate), 0.99) for rate in curve.rates]
    assert p99 == sorted(p99)
    assert curve.quantile(curve.capacity, 0.99) == float("inf")
    best = curve.highest_rate(0.05, 0.7)
    assert 0 < best <= 0.7 * curve.capacity
    assert curve.quantile(best, 0.99) <= 0.05
    assert curve.highest_rate(0.001, 0.7) == 0
