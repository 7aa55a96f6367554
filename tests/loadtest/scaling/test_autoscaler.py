"""The controller's arithmetic, beside figures worked out by hand from Kubernetes' documents and source."""

from __future__ import annotations

import pytest

from loadtest.scaling.autoscaler import Autoscaler, Behavior, Metric, MetricKind, Policy, Seen, wanted
from loadtest.scaling.scalers import Bounds, make_scaler
from tritonforge.errors import UsageError

CPU = Metric("cpu", 0.5)
PENDING = Metric("pending", 10)
KEDA = Metric("pending", 10, external=True)


@pytest.mark.parametrize(
    ("metric", "ready", "starting", "total", "expected"),
    [
        # 100% of a target of 50%, as in Kubernetes' own example: twice as many.
        (CPU, 4, 0, 4.0, 8),
        (CPU, 4, 0, 1.0, 2),
        # Within the tolerance of a tenth.
        (CPU, 4, 0, 2.18, 4),
        (CPU, 4, 0, 2.24, 5),
        # Two that start count as idle: 4 / (6 * 0.5) = 1.33, of 6.
        (CPU, 4, 2, 4.0, 8),
        # With four of them nothing is missing any more.
        (CPU, 4, 4, 4.0, 8),
        # The way up would become a way down: nothing.
        (CPU, 2, 4, 1.2, 6),
        # Down: pods that are not ready are left out of CPU, and count as at their target elsewhere.
        (CPU, 4, 2, 1.0, 2),
        (PENDING, 4, 2, 20.0, 4),
        # No metrics at all.
        (PENDING, 0, 3, 0.0, 3),
        # An AverageValue of an external metric: the sum over the target, whoever is ready.
        (KEDA, 2, 5, 95.0, 10),
        (KEDA, 2, 5, 70.0, 7),
        (KEDA, 2, 5, 76.0, 7),
        (KEDA, 2, 0, 0.0, 0),
    ],
)
def test_replicas_by_one_metric(
    metric: Metric, ready: int, starting: int, total: float, expected: int
) -> None:
    assert wanted(metric, Seen(ready, starting, total)) == expected


def decide(scaler: Autoscaler, now: float, replicas: int, usage: float, *, active: bool = True) -> int:
    seen: dict[MetricKind, Seen] = {"pending": Seen(replicas, 0, usage)}
    return scaler.decide(now, seen, active=active)


def test_it_goes_down_only_after_the_highest_of_five_minutes_is_past() -> None:
    scaler = Autoscaler((KEDA,), most=100)
    assert decide(scaler, 0, 10, 100) == 10
    assert decide(scaler, 15, 10, 60) == 10
    assert decide(scaler, 285, 10, 20) == 10
    # The 10 of second 0 is over; the highest since is the 6 of second 15.
    assert decide(scaler, 300, 10, 20) == 6
    assert decide(scaler, 330, 6, 20) == 2


def test_it_goes_up_at_once_but_no_faster_than_its_policies() -> None:
    scaler = Autoscaler((KEDA,), most=100)
    # At most 4 pods or 100 percent in 15 s, whichever is more.
    assert decide(scaler, 0, 1, 1000) == 5
    assert decide(scaler, 15, 5, 1000) == 10
    assert decide(scaler, 30, 10, 1000) == 20


def test_what_changed_within_a_policys_period_counts() -> None:
    up = Behavior(0, (Policy("Pods", 4, 60),))
    scaler = Autoscaler((KEDA,), most=100, up=up)
    assert decide(scaler, 0, 1, 30) == 3
    assert decide(scaler, 15, 3, 1000) == 5
    assert decide(scaler, 30, 5, 1000) == 5
    assert decide(scaler, 60, 5, 1000) == 7


def test_upwards_only_what_was_wanted_throughout_the_window() -> None:
    scaler = Autoscaler((KEDA,), most=100, up=Behavior(60, (Policy("Percent", 100, 15),)))
    assert decide(scaler, 0, 4, 40) == 4
    assert decide(scaler, 15, 4, 80) == 4
    assert decide(scaler, 45, 4, 60) == 4
    assert decide(scaler, 61, 4, 80) == 6


def test_keda_sleeps_after_its_cooldown_and_wakes_with_one() -> None:
    scaler = Autoscaler((KEDA,), least=0, most=10, cooldown_s=300)
    assert decide(scaler, 0, 1, 5) == 1
    assert decide(scaler, 15, 1, 0, active=False) == 1
    assert decide(scaler, 285, 1, 0, active=False) == 1
    assert decide(scaler, 300, 1, 0, active=False) == 0
    assert decide(scaler, 315, 0, 0, active=False) == 0
    assert decide(scaler, 330, 0, 500) == 1


def test_bounds_hold() -> None:
    scaler = Autoscaler((KEDA,), least=2, most=6)
    assert decide(scaler, 0, 4, 1e6) == 6
    assert decide(scaler, 1000, 6, 0) == 2


def test_the_metric_that_asks_for_most_decides() -> None:
    scaler = make_scaler("cpu:0.5+keda-pending:10", Bounds(most=100))
    seen: dict[MetricKind, Seen] = {"cpu": Seen(4, 0, 1.0), "pending": Seen(4, 0, 70.0)}
    assert scaler.decide(0, seen) == 7


@pytest.mark.parametrize(
    "form", ["", "cpu", "cpu:0", "cpu:x", "keda-cpu:0.5", "fixed:1.5", "memory:1", "fixed:2+cpu:1"]
)
def test_other_names_are_refused(form: str) -> None:
    with pytest.raises(UsageError, match="there is no autoscaler"):
        make_scaler(form, Bounds())


def test_only_keda_goes_to_zero() -> None:
    with pytest.raises(UsageError, match="never goes to 0"):
        make_scaler("cpu:0.7", Bounds(least=0))
    assert make_scaler("keda-rate:100", Bounds(least=0)).least == 0
