"""SLO capacity: the greatest throughput at which a service level objective still holds.

The points are walked from the lowest level on, up to the first that misses the objective: whoever serves much
has to pass by less. Between the last that meets it and that first, throughput is read off the straight line
between the two points. The curve of latency over throughput bends upwards, so the line lies above it, and
what is read off is at most what the server can do. Nothing is said of loads that were not measured.

The interval is a percentile bootstrap [Efron and Tibshirani 1993, "An Introduction to the Bootstrap"]:
windows are drawn anew with replacement, throughput and latency of a window together, and each draw's distance
from the point is widened by what the windows' correlation takes from their number (`windows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loadtest.report.slo import Slo, errors
from loadtest.report.sweep import level, ordered, unsound
from loadtest.report.windows import full_windows, series, window_values
from loadtest.results import Point

_DRAWS = 1000
_TAIL = 2.5  # percent on either side
_SEED = 0  # the same points give the same report
_FIGURES = ("rate", "p50", "p99")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Capacity:
    """How much a server does within an objective.

    Attributes:
        slo: The objective.
        outcome: ``between`` two levels; ``at_least``, where every level met it; ``none``, where not even
            the lowest did; ``unknown``, where no level was measured soundly.
        requests_per_second: The capacity; 0 where there is none.
        items_per_second: The same in texts or tokens.
        interval: 95% bounds of ``requests_per_second``; None where windows are too few or do not show
            what the objective is about. An infinite upper bound: it may hold beyond what was measured.
        met: The last level that meets it.
        missed: The first that does not.
        why: What ``missed`` misses.
        notes: What a reader should know.
    """

    slo: Slo
    outcome: Literal["between", "at_least", "none", "unknown"]
    requests_per_second: float = 0.0
    items_per_second: float = 0.0
    interval: tuple[float, float] | None = None
    met: Point | None = None
    missed: Point | None = None
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def slo_capacity(points: Sequence[Point], slo: Slo) -> Capacity:
    """Find the capacity of one sweep.

    Args:
        points: Of one kind of load, in any order.
        slo: What must hold.

    Returns:
        The capacity, with what it lies between and how sure it is.
    """
    walked = ordered(points)
    absent = [o.name for o in slo.objectives if all(o.value(p) is None for p in walked)]
    if absent or not any(unsound(point) is None for point in walked):
        why = f"no {absent[0]} was measured" if absent else "no level was measured soundly"
        return Capacity(slo, "unknown", notes=(why,))
    curve = _Curve.of(walked, slo)
    read = curve.read(curve.rates[None], curve.times[None])
    last, first = int(read.last[0]), int(read.first[0])
    missed = walked[first] if first < len(walked) else None
    why_missed = tuple(slo.missed(missed)) if missed else ()
    if last < 0:
        outcome: Literal["none", "unknown"] = "none" if missed else "unknown"
        return Capacity(slo, outcome, missed=missed, why=why_missed)
    items = np.array([[point.items_per_second for point in walked]])
    interval, why = _interval(walked, slo, curve, first)
    notes = [why] if why else []
    again = [p for p, holds in zip(walked, curve.holds(curve.times[None])[0], strict=True) if holds]
    if missed is not None and again[-1].level > missed.level:
        notes.append(
            f"{level(again[-1])} meets it again although {level(missed)} does not: the levels between are "
            "not measured surely enough, so measure longer"
        )
    return Capacity(
        slo,
        "at_least" if missed is None else "between",
        float(read.value(curve.rates[None])[0]),
        float(read.value(items)[0]),
        interval,
        walked[last],
        missed,
        why_missed,
        tuple(notes),
    )


@dataclass(frozen=True)
class _Read:
    """Where the walk along a curve ended, of each draw.

    Attributes:
        met: Which points count, bool [draws, points].
        last: The last of them, -1 if there is none, [draws].
        first: The first that misses the objective, the number of points if none does.
        share: How far on the line between the two it holds, 0 to 1.
    """

    met: NDArray[np.bool_]
    last: NDArray[np.int64]
    first: NDArray[np.int64]
    share: Floats

    def value(self, rates: Floats) -> Floats:
        """The capacity in ``rates`` [draws, points], 0 where there is none."""
        best = np.where(self.met, rates, 0.0).max(axis=1)
        row = np.arange(len(rates))
        low = rates[row, self.last]
        high = rates[row, np.minimum(self.first, rates.shape[1] - 1)]
        between = low + self.share * np.maximum(0.0, high - low)  # not where the line leads back
        found: Floats = np.where(self.last < 0, 0.0, np.maximum(best, between))
        return found


@dataclass(frozen=True)
class _Curve:
    """The points as arrays: ``rates`` [points], ``times`` and ``limits`` [points, objectives] and so on."""

    rates: Floats
    times: Floats
    limits: Floats
    sound: NDArray[np.bool_]
    failing: NDArray[np.bool_]

    @classmethod
    def of(cls, points: Sequence[Point], slo: Slo) -> _Curve:
        values = [[o.value(point) for o in slo.objectives] for point in points]
        return cls(
            np.array([point.requests_per_second for point in points]),
            np.array([[np.inf if value is None else value for value in row] for row in values]),
            np.array([objective.limit for objective in slo.objectives]),
            np.array([unsound(point) is None for point in points]),
            np.array([errors(point) > slo.error_share for point in points]),
        )

    def holds(self, times: Floats) -> NDArray[np.bool_]:
        """Which points meet the objective; one that was not measured soundly never does."""
        found: NDArray[np.bool_] = (times <= self.limits).all(axis=2) & self.sound & ~self.failing
        return found

    def read(self, rates: Floats, times: Floats) -> _Read:
        """Walk the curve.

        Args:
            rates: [draws, points].
            times: [draws, points, objectives].
        """
        draws, count = rates.shape
        row = np.arange(draws)
        missing = (times > self.limits).any(axis=2) | self.failing
        first = np.where(missing.any(axis=1), missing.argmax(axis=1), count)
        met = self.holds(times) & (np.arange(count) < first[:, None])
        last = np.where(met.any(axis=1), count - 1 - met[:, ::-1].argmax(axis=1), -1)
        end = np.minimum(first, count - 1)
        low, high = times[row, last], times[row, end]
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = np.where(high > self.limits, (self.limits - low) / (high - low), 1.0)
        drawable = (first < count) & (last >= 0) & (self.sound & ~self.failing)[end]
        share = np.where(drawable, np.clip(parts.min(axis=1), 0.0, 1.0), 0.0)
        return _Read(met, last, first, share)


def _interval(
    points: Sequence[Point], slo: Slo, curve: _Curve, first: int
) -> tuple[tuple[float, float] | None, str]:
    """95% bounds of the capacity, or why there are none."""
    if any(objective.of != "latency" for objective in slo.objectives):
        return None, "windows hold no times of tokens, so the capacity has no interval"
    seed = np.random.default_rng(_SEED)
    rates = np.repeat(curve.rates[None], _DRAWS, axis=0)
    times = np.repeat(curve.times[None], _DRAWS, axis=0)
    for index, point in enumerate(points):
        if not curve.sound[index]:
            continue
        factors = _factors(point, seed)
        if factors is None:
            if index <= first:
                return None, f"{level(point)} has too few windows for an interval: measure longer"
            continue
        rates[:, index] *= factors["rate"]
        for place, objective in enumerate(slo.objectives):
            # Windows have no other percentiles: the tail moves as p99 does, the middle as the median.
            times[:, index, place] *= factors["p50" if objective.statistic in ("mean", "p50") else "p99"]
    read = curve.read(rates, times)
    found = np.where(read.first == len(points), np.inf, read.value(rates))
    low, high = np.percentile(found, [_TAIL, 100 - _TAIL], method="inverted_cdf")
    if np.isinf(low):  # nearly every draw met it everywhere: what is sure is the throughput that was seen
        low = np.percentile(read.value(rates), _TAIL)
    return (float(low), float(high)), ""


def _factors(point: Point, seed: np.random.Generator) -> dict[str, Floats] | None:
    """What each draw of windows multiplies throughput, median and tail by; None if windows are too few."""
    chosen = seed.integers(0, max(1, len(full_windows(point))), (max(1, len(full_windows(point))), _DRAWS))
    factors = {}
    for name in _FIGURES:
        found = series(window_values(point, name))
        if found is None:
            return None
        values = found[0].values
        drawn = values[chosen % len(values)].mean(axis=0) / found[0].mean
        usual = float(values.var()) / len(values) / found[0].mean ** 2  # what drawing alone makes of them
        wider = np.sqrt(found[0].relative_variance / usual) if usual else 1.0
        factors[name] = np.maximum(0.0, 1 + wider * (drawn - 1))
    return factors
