from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.overflow import OverflowShare

LOADS = st.lists(st.tuples(st.integers(0, 400), st.floats(0.01, 30)), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("in_flight", "percent"), [(0, 0), (100, 0), (101, 1), (125, 20), (200, 50), (10_000, 99)]
)
def test_the_excess_over_the_whole_goes(in_flight: int, percent: int) -> None:
    assert OverflowShare(100, 900).observe(in_flight, 0) == percent


def test_low_load_keeps_the_share_until_it_was_low_for_long_enough() -> None:
    share = OverflowShare(100, 900)
    assert share.observe(200, 0) == 50
    assert share.observe(100, 10) == 50
    assert share.observe(0, 909.9) == 50
    assert share.observe(0, 910) == 0


def test_a_new_peak_starts_the_waiting_anew() -> None:
    share = OverflowShare(100, 900)
    share.observe(200, 0)
    share.observe(10, 1)
    assert share.observe(125, 900) == 20
    assert share.observe(10, 901) == 20
    assert share.observe(10, 1800.9) == 20
    assert share.observe(10, 1801) == 0


def test_nothing_is_waited_for_where_the_wait_is_zero() -> None:
    share = OverflowShare(1, 0)
    assert share.observe(2, 0) == 50
    assert share.observe(1, 1) == 0


@given(LOADS, st.integers(1, 300), st.floats(0, 60))
def test_the_share_never_swings(loads: list[tuple[int, float]], above: int, wait: float) -> None:
    share = OverflowShare(above, wait)
    now, before, last_high = 0.0, 0, float("-inf")
    for in_flight, pause in loads:
        now += pause
        percent = share.observe(in_flight, now)
        assert 0 <= percent <= 100
        if in_flight > above:
            # Home keeps at least the load that it can take.
            assert percent >= 1
            assert in_flight * (100 - percent) / 100 <= above
            last_high = now
        else:
            # A low load never changes the share, but to end it, once, long enough after the last high one.
            assert percent in (before, 0)
            if percent != before:
                assert now - last_high >= wait
        before = percent


@given(st.integers(0, 400), st.integers(1, 300), st.integers(2, 50))
def test_a_constant_load_gives_a_constant_share(load: int, above: int, looks: int) -> None:
    share = OverflowShare(above, 5)
    assert len({share.observe(load, second) for second in range(looks)}) == 1
