"""The knee, against the M/M/1 queue: its power is greatest at half the service rate (Kleinrock 1979)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.report.knee import find_knee, power
from tests.loadtest.report.synthetic import mm1, mm1_latency, point


@given(st.floats(60, 400))
def test_it_is_the_level_next_to_half_the_service_rate(service: float) -> None:
    step = service / 13
    points = [point(at, at * step, mm1_latency(at * step, service), kind="poisson") for at in range(1, 13)]
    knee = find_knee(points)
    assert knee is not None
    assert abs(knee.point.requests_per_second - service / 2) <= step / 2 + 1e-6
    assert knee.below is not None and knee.above is not None
    assert knee.below.requests_per_second <= service / 2 <= knee.above.requests_per_second


def test_it_does_not_move_with_how_far_was_measured() -> None:
    knees = [find_knee(mm1((10, 30, 50, 70, *more))) for more in ((), (90,), (90, 99, 99.9))]
    assert [knee and knee.point.level for knee in knees] == [50, 50, 50]


@pytest.mark.parametrize(
    ("rates", "edge"), [((60, 70, 80), "first"), ((10, 20, 30), "last"), ((30, 50, 70), None)]
)
def test_an_end_of_the_sweep_is_said(rates: tuple[float, ...], edge: str | None) -> None:
    knee = find_knee(mm1(rates))
    assert knee is not None and knee.edge == edge


def test_what_is_not_steady_or_too_little_has_none() -> None:
    assert find_knee(mm1((40, 50))) is None
    points = [p.model_copy(update={"stable": p.level != 50}) for p in mm1((30, 50, 60, 80))]
    knee = find_knee(points)
    assert knee is not None and knee.point.level == 60
    assert find_knee(points[:3]) is None


def test_power_of_nothing_is_nothing() -> None:
    assert power(point(1, 0.0, None)) == 0.0
