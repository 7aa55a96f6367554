from __future__ import annotations

import numpy as np
import pytest

from loadtest.records import Failure, Records, is_steady, latency_of, point_of, window_seconds


def records(
    ended: list[float],
    latency: list[float],
    items: list[float] | None = None,
    first: list[float] | None = None,
) -> Records:
    count = len(ended)
    return Records(
        np.array(ended),
        np.array(latency, float),
        np.array(items or [1] * count, float),
        np.array(first or [np.nan] * count),
        (Failure(11.0, "UNAVAILABLE"), Failure(12.5, "x" * 500), Failure(99.0, "later")),
    )


def test_only_what_ended_within_counts() -> None:
    found = records([9.9, 10.0, 11.0, 14.9, 15.0], [1, 2, 4, 6, 8], [2, 2, 2, 2, 2])
    point = point_of(found, kind="concurrency", level=4, started=10.0, seconds=5.0)
    assert (point.requests, point.errors) == (3, 2)
    assert (point.requests_per_second, point.items_per_second) == pytest.approx((0.6, 1.2))
    assert point.latency is not None
    assert (point.latency.mean, point.latency.p50, point.latency.max) == (4, 4, 6)
    assert point.error_kinds == {"UNAVAILABLE": 1, "x" * 200: 1}
    assert point.first_token is None


def test_windows_add_up_to_the_point() -> None:
    ended = np.linspace(10.0, 14.999, 100).tolist()
    point = point_of(records(ended, [3.0] * 100), kind="users", level=1, started=10.0, seconds=5.0)
    assert len(point.windows) == 10
    assert sum(window.requests for window in point.windows) == point.requests == 100
    assert sum(window.errors for window in point.windows) == point.errors == 2
    assert point.windows[2].errors == 1
    assert point.windows[0].p99 == 3.0


def test_a_window_without_a_request_has_no_latency() -> None:
    point = point_of(records([10.1], [3.0]), kind="users", level=1, started=10.0, seconds=5.0)
    assert (point.windows[-1].requests, point.windows[-1].p50) == (0, None)


@pytest.mark.parametrize(("seconds", "width"), [(2.0, 0.2), (30.0, 1.0), (1200.0, 10.0)])
def test_windows_are_neither_too_short_nor_too_many(seconds: float, width: float) -> None:
    assert window_seconds(seconds) == pytest.approx(width)


def test_tokens_count_when_they_come() -> None:
    # Sent at 8 and 13; 10 tokens each, from 9 to 11 and from 14 to 18: half of one, a quarter of the other.
    found = records([11.0, 18.0], [3000, 5000], [10, 10], [1000, 1000])
    point = point_of(found, kind="concurrency", level=2, started=10.0, seconds=5.0)
    assert point.requests == 1
    assert point.items_per_second == pytest.approx((5 + 2.5) / 5)
    assert point.first_token is not None
    assert point.per_token is not None
    assert point.first_token.p50 == 1000
    assert point.per_token.p50 == pytest.approx(2000 / 9)


def test_steady_is_what_perf_analyzer_calls_stable() -> None:
    even = records(np.arange(10.0, 13.0, 0.01).tolist(), [5.0] * 300)
    assert is_steady(even, 10.0, 3.0, 20)
    slower = records(even.ended.tolist(), [5.0] * 200 + [6.1] * 100)
    assert not is_steady(slower, 10.0, 3.0, 20)
    assert is_steady(slower, 10.0, 3.0, 30)
    assert not is_steady(even, 10.0, 30.0, 20)  # nothing was answered in the rest


def test_no_times_have_no_distribution() -> None:
    assert latency_of(np.array([])) is None
