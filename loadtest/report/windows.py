"""What the windows of one point tell of its spread.

Neighbouring windows resemble each other: a queue that is long stays long for a while. They count as fewer
independent ones, which follows from their correlation with the next [Zwiers and von Storch 1995, "Taking
serial correlation into account in tests of the mean", J. Climate 8]. Its estimate from few windows is too
low, by a known amount, which is added [Marriott and Pope 1954, "Bias in the estimation of
autocorrelations", Biometrika 41].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.results import Point, Window

LEAST_WINDOWS = 6  # fewer say next to nothing about a spread
_MOST_CORRELATION = 0.9
_SHORT = 0.5  # of the median length: what is left at the end of a point, and noisier than the others


@dataclass(frozen=True)
class Series:
    """One figure of a point's windows.

    Attributes:
        values: In the order of time.
        correlation: Of a window with the next, 0 to 0.9.
    """

    values: NDArray[np.float64]
    correlation: float

    @property
    def mean(self) -> float:
        """Of the windows."""
        return float(self.values.mean())

    @property
    def effective(self) -> float:
        """As many independent windows would tell as much of the mean; at least 2."""
        return max(2.0, len(self.values) * (1 - self.correlation) / (1 + self.correlation))

    @property
    def relative_variance(self) -> float:
        """Variance of the mean, over the mean squared.

        The sample variance of correlated windows is too low too, and is mended by the same count.
        """
        count = len(self.values)
        mended = max(0.2, 1 - (count / self.effective - 1) / (count - 1))
        return float(self.values.var(ddof=1)) / mended / self.effective / self.mean**2


def full_windows(point: Point) -> tuple[Window, ...]:
    """The windows of a point, less those that were cut short."""
    if not point.windows:
        return ()
    usual = float(np.median([window.seconds for window in point.windows]))
    return tuple(window for window in point.windows if window.seconds >= _SHORT * usual)


def window_values(point: Point, name: str) -> list[float]:
    """One figure of each full window that has it: ``rate``, ``p50`` or ``p99``."""
    windows = full_windows(point)
    if name == "rate":
        return [window.requests / window.seconds for window in windows]
    return [value for window in windows if (value := getattr(window, name)) is not None]


def series(*runs: Sequence[float], least: float = 0.0) -> list[Series] | None:
    """Series that are judged together, and so share one correlation.

    Args:
        *runs: The same figure of the same level, of one or more runs.
        least: What the correlation is at least: that of other levels, for one level has few windows.

    Returns:
        As many; None where one is too short, or its mean is zero.
    """
    if any(len(run) < LEAST_WINDOWS or min(run) < 0 or max(run) <= 0 for run in runs):
        return None
    shared = max(least, correlation(runs))
    return [Series(np.asarray(run, dtype=np.float64), shared) for run in runs]


def correlation(runs: Sequence[Sequence[float]]) -> float:
    """Of each window with the next, over all runs, 0 to 0.9; what is below zero is taken for chance."""
    scores = [_scores(run) for run in runs if len(run) >= LEAST_WINDOWS]
    total = sum(float(one @ one) for one in scores)
    if total == 0:
        return 0.0
    count = min(len(one) for one in scores)
    found = sum(float(one[1:] @ one[:-1]) for one in scores) / total
    return float(np.clip((found + 1 / count) / (1 - 4 / count), 0, _MOST_CORRELATION))


def _scores(run: Sequence[float]) -> NDArray[np.float64]:
    """Distances from the mean, in standard deviations; all zero where there is none."""
    values = np.asarray(run, dtype=np.float64)
    spread = float(values.std())
    found: NDArray[np.float64] = (values - values.mean()) / (spread or 1.0)
    return found
