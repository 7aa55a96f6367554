"""The fluid of a fleet, beside the same fleet simulated request by request, autoscaler and all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loadtest.scaling.autoscaler import Autoscaler, MetricKind, Seen
from loadtest.scaling.curve import Curve
from loadtest.scaling.events import Cluster, Node, Timing
from loadtest.scaling.fleet import Looking, Story, run_fleet
from loadtest.scaling.pods import Platform, Pods
from loadtest.scaling.scalers import Bounds, make_scaler
from loadtest.scaling.traces import Trace, find_trace
from tritonforge.errors import UsageError

NODE = Node((Timing(1, 8, 0.0, 0, tuple(0.02 + 0.01 * batch for batch in range(1, 9))),))
PLATFORM = Platform(schedule_s=1, node_s=20, pull_s=5, start_s=8, probe_s=1, node_idle_s=60)


@pytest.fixture(scope="module")
def curve() -> Curve:
    return Curve.of(NODE, 4000)


def fluid(curve: Curve, trace: Trace, scaler: Autoscaler, **keys: Any) -> Story:
    """The fleet as a fluid; what its servers use is not looked at here."""
    unused = np.zeros(curve.rates.size)
    return run_fleet(curve, trace, scaler, PLATFORM, cores_at=unused, requested_cores=1, **keys)


def exact(trace: Trace, scaler: Autoscaler, start: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latencies, and ready replicas by second: the same pods and controller over single requests."""
    pods = Pods(PLATFORM, start)
    cluster = Cluster(NODE, start, seed)
    ready: list[float] = []
    counts: list[float] = []

    def tick(now: Cluster) -> None:
        second = round(now.now)
        counts.append(now.arrived - sum(counts))
        ready.append(pods.ready)
        pods.step(second, 1.0)
        if second % 15 == 0:
            seen: dict[MetricKind, Seen] = {
                "rate": Seen(pods.ready, pods.starting, float(np.mean(counts[-30:])))
            }
            pods.resize(second, scaler.decide(second, seen))
        now.resize(pods.ready)

    arrivals = trace.arrivals(np.random.default_rng(seed))
    latency = cluster.run(arrivals, tick).latency
    return latency, np.array(ready)


def test_a_fleet_is_the_sum_of_its_requests(curve: Curve) -> None:
    """A ramp that asks for many more replicas, new nodes included."""
    trace = Trace(
        "ramp", np.concatenate([np.full(120, 60.0), np.linspace(60, 400, 240), np.full(240, 400.0)])
    )
    latency, ready = exact(trace, make_scaler("keda-rate:40", Bounds(least=2)), 2, seed=1)
    story = fluid(
        curve,
        trace,
        make_scaler("keda-rate:40", Bounds(least=2)),
        start=2,
        objective_s=0.3,
        looking=Looking(window_s=30, lag_s=0),
    )
    assert story.failed_share == 0
    assert story.ready[-1] == ready[-1] == pytest.approx(10, abs=1)
    # Replicas come at the same time.
    assert np.abs(story.ready[: ready.size] - ready).mean() < 0.6
    assert story.p50_s == pytest.approx(float(np.median(latency)), rel=0.25)
    assert story.p99_s == pytest.approx(float(np.percentile(latency, 99)), rel=0.35)


def test_a_burst_beyond_the_capacity_waits_as_long_as_it_must(curve: Curve) -> None:
    """No autoscaler: ten seconds of twice the capacity, and the backlog that follows."""
    capacity = curve.capacity
    trace = Trace("burst", np.concatenate([np.full(30, 0.4), np.full(10, 2.0), np.full(60, 0.4)]) * capacity)
    latency, _ = exact(trace, make_scaler("fixed:1", Bounds()), 1, seed=2)
    story = fluid(
        curve,
        trace,
        make_scaler("fixed:1", Bounds()),
        start=1,
        objective_s=1.0,
        timeout_s=100,
    )
    assert story.p99_s == pytest.approx(float(np.percentile(latency, 99)), rel=0.2)
    assert story.p50_s == pytest.approx(float(np.median(latency)), rel=0.3)
    assert story.late_share == pytest.approx(float((latency > 1.0).mean()), abs=0.05)
    assert story.waiting.max() == pytest.approx(10 * capacity, rel=0.25)


def test_callers_who_would_wait_too_long_have_failed(curve: Curve) -> None:
    trace = Trace("flood", np.full(60, 3 * curve.capacity))
    story = fluid(
        curve,
        trace,
        make_scaler("fixed:1", Bounds()),
        start=1,
        objective_s=1.0,
        timeout_s=5,
    )
    # A third is served, and 5 s of it wait at the end.
    assert story.failed.sum() == pytest.approx((2 * 60 - 5) * curve.capacity, rel=0.05)
    assert story.waiting.max() <= 5 * curve.capacity + 1


@pytest.mark.parametrize("holds", [False, True])
def test_nobody_is_there_until_the_first_request_woke_them(curve: Curve, holds: bool) -> None:
    trace = Trace("wake", np.concatenate([np.zeros(60), np.full(240, 5.0)]), recorded=True)
    story = fluid(
        curve,
        trace,
        make_scaler("keda-rate:40", Bounds(least=0)),
        start=0,
        objective_s=1.0,
        holds=holds,
        timeout_s=120,
    )
    awake = int(np.argmax(story.ready > 0))
    # The metric is 15 s old, is looked at every 15 s, and a new node and its pod take 35 s.
    assert 60 + 35 <= awake <= 60 + 15 + 15 + 35
    assert (story.failed.sum() > 0) != holds
    assert story.started == 1


def test_pods_take_room_on_nodes_that_are_up_and_nodes_are_given_back() -> None:
    pods = Pods(
        Platform(pods_per_node=2, schedule_s=1, node_s=20, pull_s=5, start_s=8, probe_s=1, node_idle_s=60), 3
    )
    assert pods.nodes == 2
    pods.resize(0, 6)  # one on the second node, two on a third
    assert (pods.starting, pods.nodes) == (3, 3)
    pods.step(10, 1)
    assert pods.ready == 4
    pods.step(34, 1)
    assert pods.ready == 4
    pods.step(35, 1)
    assert pods.ready == 6
    pods.resize(40, 2)
    assert (pods.ready, pods.nodes) == (2, 3)
    pods.step(41, 1)
    pods.step(100, 1)
    assert pods.nodes == 3
    pods.step(101, 1)
    assert pods.nodes == 1
    pods.resize(102, 4)
    pods.resize(103, 3)  # those that do not serve yet go first
    assert (pods.ready, pods.starting) == (2, 1)


def test_spare_nodes_are_up_before_they_are_wanted() -> None:
    pods = Pods(Platform(schedule_s=1, node_s=20, pull_s=5, start_s=8, probe_s=1, spare_nodes=1), 1)
    assert pods.nodes == 2
    pods.resize(0, 3)
    assert pods.nodes == 4
    pods.step(10, 1)
    assert pods.ready == 2
    pods.step(35, 1)
    assert pods.ready == 3


def test_recorded_traces_keep_their_counts_and_made_up_ones_their_mean() -> None:
    recorded = find_trace("azure_llm_2023_conv")
    assert recorded.rates.sum() == 19_366
    busiest = np.convolve(recorded.scaled(1000).rates, np.ones(60) / 60, "valid").max()
    assert busiest == pytest.approx(1000)
    assert recorded.arrivals(np.random.default_rng(0)).size == 19_366
    day = find_trace("day").scaled(100)
    assert day.seconds == 86_400
    assert day.rates[3 * 3600] < 0.15 * day.rates[11 * 3600]
    made = Trace("constant", np.full(500, 40.0)).arrivals(np.random.default_rng(0))
    assert made.size == pytest.approx(20_000, rel=0.03)
    assert (np.diff(made) >= 0).all()


@pytest.mark.parametrize(
    "content", ["requests\n1\n-2\n", "requests\n", "requests\none\n", "requests\n0\n0\n"]
)
def test_files_that_are_no_traces_are_refused(content: str, tmp_path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError):
        find_trace(str(file))
