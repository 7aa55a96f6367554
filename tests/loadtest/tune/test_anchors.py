"""What the default would have come to at a moment."""

from __future__ import annotations

import math

import pytest

from loadtest.tune.anchors import Anchor, expected, spread


def test_between_two_anchors_the_machine_is_taken_to_drift_evenly() -> None:
    anchors = [Anchor(0, 100), Anchor(10, 400), Anchor(20, 100)]
    assert expected(anchors, 5) == pytest.approx(200)
    assert expected(anchors, 10) == pytest.approx(400)
    assert expected(anchors, 17.5) == pytest.approx(100 * 4**0.25)


def test_outside_them_the_nearest_counts() -> None:
    anchors = [Anchor(1, 100), Anchor(2, 200)]
    assert expected(anchors, 0) == 100
    assert expected(anchors, 2) == expected(anchors, 9) == 200


def test_a_setting_as_good_as_the_default_has_ratio_one_however_the_machine_drifts() -> None:
    def speed(at: float) -> float:
        return 300 * math.exp(-at / 50)

    anchors = [Anchor(at, speed(at)) for at in (0, 40, 80)]
    for at in (7, 39, 55):
        assert speed(at) / expected(anchors, at) == pytest.approx(1)


def test_the_spread_is_that_of_neighbours() -> None:
    assert spread([Anchor(0, 100)]) is None
    assert spread([Anchor(0, 100), Anchor(1, 110), Anchor(2, 100)]) == pytest.approx(math.log(1.1))
