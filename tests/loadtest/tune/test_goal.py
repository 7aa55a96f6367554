"""One number for a server, and when to give up on it."""

from __future__ import annotations

import pytest

from loadtest.tune.goal import Goal, Look


def look(level: int, items: float, p99: float, p50: float | None = None) -> Look:
    return Look(level=level, items_per_second=items, p50_ms=p99 / 2 if p50 is None else p50, p99_ms=p99)


def test_without_an_slo_each_level_counts_as_a_ratio() -> None:
    goal = Goal("throughput", (1, 16))
    one = goal.score([look(1, 100, 10), look(16, 400, 40)])
    assert one.value == pytest.approx(200)
    assert goal.score([look(1, 200, 10), look(16, 400, 40)]).value / one.value == pytest.approx(2**0.5)


def test_under_an_slo_it_is_the_throughput_where_p99_reaches_it() -> None:
    goal = Goal("throughput", (1, 4, 16), slo_p99_ms=20)
    looks = [look(1, 100, 5), look(4, 200, 10), look(16, 300, 40)]
    assert goal.score(looks).value == pytest.approx(250)  # halfway from 10 to 40 in the logarithm
    assert goal.score(looks[:2]).value == 200
    assert goal.score(looks).violation == 0


def test_a_load_that_brings_less_is_not_read_as_capacity() -> None:
    goal = Goal("throughput", (1, 4), slo_p99_ms=20)
    assert goal.score([look(1, 100, 5), look(4, 60, 40)]).value == 100


def test_a_little_over_the_slo_costs_a_little() -> None:
    goal = Goal("throughput", (1, 4), slo_p99_ms=20)
    met = goal.score([look(1, 100, 5), look(4, 200, 19.9)])
    missed = goal.score([look(1, 100, 5), look(4, 200, 20.1)])
    assert 0.98 < missed.value / met.value < 1


def test_what_misses_the_slo_is_ranked_by_how_far() -> None:
    goal = Goal("throughput", (1, 4), slo_p99_ms=20)
    near, far = goal.score([look(1, 100, 22)]), goal.score([look(1, 100, 40)])
    assert near.violation == pytest.approx(0.1)
    assert far.violation == pytest.approx(1.0)
    assert near.value > far.value > 0


def test_latency_is_the_median_of_one_request() -> None:
    goal = Goal("latency", (1,), slo_p99_ms=20)
    assert goal.score([look(1, 100, 10, p50=4)]).value == 250
    assert goal.score([look(1, 100, 30, p50=4)]).violation == pytest.approx(0.5)
    assert goal.ratio(look(1, 1, 1, p50=2), look(1, 1, 1, p50=4)) == 2


def test_the_first_look_is_where_the_default_is_at_its_best() -> None:
    goal = Goal("throughput", (1, 4, 16), slo_p99_ms=20)
    assert goal.decisive([look(1, 100, 5), look(4, 200, 15), look(16, 300, 40)]).level == 4
    assert goal.decisive([look(1, 100, 25)]).level == 1
    assert Goal("throughput", (1, 16)).decisive([look(1, 1, 1), look(16, 1, 1)]).level == 16


def test_only_what_is_far_behind_is_given_up() -> None:
    goal = Goal("throughput", (16,))
    assert goal.hopeless(look(16, 60, 1), look(16, 100, 1))
    assert not goal.hopeless(look(16, 80, 1), look(16, 100, 1))
    assert not goal.hopeless(look(16, 60, 1), look(16, 100, 1), noise=0.2)
    assert goal.hopeless(look(16, 40, 1), look(16, 100, 1), noise=0.2)
