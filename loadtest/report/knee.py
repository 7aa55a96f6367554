"""The knee of a sweep: where more load stops being worth its latency.

It is the point of greatest power, throughput over mean latency [Kleinrock 1979, "Power and deterministic
rules of thumb for probabilistic problems in computer communications", ICC; Giessler et al. 1978, "Free buffer
allocation", Computer Networks 2]. Below it, more load raises throughput by a greater share than latency;
beyond it, latency by the greater. Unlike methods that look for the bend of the drawn curve, it does not move
with how far beyond saturation one measured, and it has no setting to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.report.sweep import ordered, unsound
from loadtest.results import Point

LEAST_LEVELS = 3


@dataclass(frozen=True)
class Knee:
    """The level at the knee.

    Attributes:
        point: The measured level of greatest power.
        below: The level before it; the knee itself lies between ``below`` and ``above``.
        above: The level after it.
    """

    point: Point
    below: Point | None
    above: Point | None

    @property
    def edge(self) -> Literal["first", "last"] | None:
        """Which end of the sweep it is, if one: the knee may lie beyond."""
        if self.below is None:
            return "first"
        return "last" if self.above is None else None


def power(point: Point) -> float:
    """Throughput over mean latency, in requests/s²; 0 where nothing was answered."""
    return 1e3 * point.requests_per_second / point.latency.mean if point.latency else 0.0


def find_knee(points: Sequence[Point]) -> Knee | None:
    """The knee of one sweep; None where fewer than three levels were measured soundly."""
    sound = [point for point in ordered(points) if not unsound(point)]
    if len({point.level for point in sound}) < LEAST_LEVELS:
        return None
    at = max(range(len(sound)), key=lambda index: power(sound[index]))
    below = [point for point in sound[:at] if point.level < sound[at].level]
    above = [point for point in sound[at + 1 :] if point.level > sound[at].level]
    return Knee(sound[at], below[-1] if below else None, above[0] if above else None)
