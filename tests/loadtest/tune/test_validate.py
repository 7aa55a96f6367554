"""When a winner counts as better."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtest.tune.records import Pair
from loadtest.tune.validate import interval, judge


def pairs(ratios: Sequence[float], winner_violation: float = 0, default_violation: float = 0) -> list[Pair]:
    return [
        Pair(
            default=100,
            winner=100 * ratio,
            default_violation=default_violation,
            winner_violation=winner_violation if number == 0 else 0,
            winner_first=number % 2 == 1,
        )
        for number, ratio in enumerate(ratios)
    ]


def test_the_interval_is_students_t_on_logarithms() -> None:
    ratio, low, high = interval([1.0, 1.21])
    assert ratio == pytest.approx(1.1)
    assert high / ratio == pytest.approx(ratio / low)
    # two values: a half width of t(0.975, 1) = 12.706 times half their distance
    assert high / ratio == pytest.approx(1.1**12.706, rel=1e-3)
    assert interval([1.1, 1.1, 1.1]) == pytest.approx((1.1, 1.1, 1.1))


def test_a_steady_gain_is_better_and_a_shaky_one_is_not() -> None:
    steady, shaky = judge(pairs([1.1, 1.12, 1.09, 1.11])), judge(pairs([1.4, 0.8, 1.3, 0.9]))
    assert steady.better and steady.low > 1 and "10.5 % better" in steady.why
    assert not shaky.better and "includes 1" in shaky.why


def test_a_loss_is_called_one() -> None:
    verdict = judge(pairs([0.9, 0.91, 0.89]))
    assert not verdict.better and "worse" in verdict.why


def test_a_winner_that_misses_the_slo_is_none_however_fast() -> None:
    verdict = judge(pairs([2.0, 2.0, 2.0], winner_violation=0.1))
    assert not verdict.better and "1 of 3 fresh runs" in verdict.why


def test_to_meet_the_slo_at_last_is_a_gain_of_its_own() -> None:
    verdict = judge(pairs([1.5, 0.9, 1.2], default_violation=0.3))
    assert verdict.better and "the default in none" in verdict.why
