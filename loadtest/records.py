"""What became of each request, and how that sums up to a point of a load test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loadtest.results import Latency, Point, Window

Floats = NDArray[np.float64]
Kind = Literal["concurrency", "request_rate", "poisson", "users"]

_MOST_KINDS = 20
_LONGEST_KIND = 200


@dataclass(frozen=True)
class Failure:
    """A request that failed: when (Unix seconds), and how."""

    ended: float
    message: str


@dataclass(frozen=True)
class Records:
    """Requests of a run, one number each, in any order.

    Attributes:
        ended: When the answer was whole, Unix seconds.
        latency: From sending to then, milliseconds.
        items: Texts of the request, or tokens of its answer.
        first: From sending to the first token, milliseconds; NaN where answers do not stream.
        failures: Those that failed; they are in none of the arrays.
    """

    ended: Floats
    latency: Floats
    items: Floats
    first: Floats
    failures: Sequence[Failure] = field(default=())

    @property
    def streamed(self) -> bool:
        """Whether answers came in pieces."""
        return bool(np.isfinite(self.first).any())


def point_of(
    records: Records,
    *,
    kind: Kind,
    level: float,
    started: float,
    seconds: float,
    stable: bool | None = None,
) -> Point:
    """Sum up the requests that were answered between ``started`` and ``started + seconds``.

    Tokens of an answer are taken to have come evenly between its first and its last: those that came in
    that time count, also of an answer that began before it or ended after it.
    """
    end = started + seconds
    inside = (records.ended >= started) & (records.ended < end)
    latency, first, items = records.latency[inside], records.first[inside], records.items[inside]
    failures = [failure for failure in records.failures if started <= failure.ended < end]
    answered = _tokens_between(records, started, end) if records.streamed else float(items.sum())
    later = np.isfinite(first) & (items > 1)
    kinds = Counter(failure.message[:_LONGEST_KIND] for failure in failures)
    return Point(
        kind=kind,
        level=level,
        started=started,
        seconds=seconds,
        requests=len(latency),
        errors=len(failures),
        requests_per_second=len(latency) / seconds,
        items_per_second=answered / seconds,
        latency=latency_of(latency),
        first_token=latency_of(first[np.isfinite(first)]),
        per_token=latency_of((latency[later] - first[later]) / (items[later] - 1)),
        stable=stable,
        error_kinds=dict(kinds.most_common(_MOST_KINDS)),
        windows=windows_of(records, started, seconds),
    )


def latency_of(milliseconds: Floats) -> Latency | None:
    """The distribution of some times; None of no times."""
    if not len(milliseconds):
        return None
    p50, p90, p95, p99 = np.percentile(milliseconds, (50, 90, 95, 99)).tolist()
    return Latency(
        mean=float(milliseconds.mean()), p50=p50, p90=p90, p95=p95, p99=p99, max=float(milliseconds.max())
    )


def window_seconds(seconds: float) -> float:
    """Length of the windows of a point: a second, but there are ten of them at least, 120 at most."""
    return seconds / float(np.clip(np.floor(seconds), 10, 120))


def windows_of(records: Records, started: float, seconds: float) -> tuple[Window, ...]:
    """Cut a point into windows of equal length, by when answers were whole."""
    width = window_seconds(seconds)
    count = round(seconds / width)
    place = np.floor((records.ended - started) / width).astype(int)
    failed = Counter(int((failure.ended - started) // width) for failure in records.failures)
    windows = []
    for number in range(count):
        latency = records.latency[place == number]
        p50, p99 = np.percentile(latency, (50, 99)).tolist() if len(latency) else (None, None)
        windows.append(Window(seconds=width, requests=len(latency), errors=failed[number], p50=p50, p99=p99))
    return tuple(windows)


def is_steady(records: Records, started: float, seconds: float, percent: float) -> bool:
    """Whether throughput and mean latency of the point's thirds are within ``percent`` of each other.

    That is perf_analyzer's own test of its last three measurements (``--stability-percentage``).
    """
    rates, means = [], []
    for third in range(3):
        begin = started + third * seconds / 3
        inside = (records.ended >= begin) & (records.ended < begin + seconds / 3)
        if not inside.any():
            return False
        rates.append(float(inside.sum()))
        means.append(float(records.latency[inside].mean()))
    return all(max(values) <= min(values) * (1 + percent / 100) for values in (rates, means))


def _tokens_between(records: Records, start: float, end: float) -> float:
    sent = records.ended - records.latency / 1e3
    begun = sent + np.nan_to_num(records.first) / 1e3
    length = np.maximum(records.ended - begun, 1e-9)
    share = (np.minimum(records.ended, end) - np.maximum(begun, start)) / length
    return float((records.items * np.clip(share, 0, 1)).sum())
