"""The points of a run that belong on one curve, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.results import LoadRun, Point
from tritonforge.page.formats import number

UNITS = {
    "concurrency": "requests in flight",
    "request_rate": "requests/s sent evenly",
    "poisson": "requests/s sent at random (Poisson)",
    "users": "users",
}
_NAMES = {"request_rate": "rate", "poisson": "Poisson rate"}
_MOST_ERRORS = 0.5  # a point that answers fewer says nothing of the server's speed


@dataclass(frozen=True)
class Sweep:
    """Points of one kind of load, from little load to much.

    Attributes:
        run: What they are of.
        kind: As of a point.
        points: In the order of their level.
    """

    run: LoadRun
    kind: str
    points: tuple[Point, ...]

    @property
    def sound(self) -> tuple[Point, ...]:
        """Those that capacity and knee are read from."""
        return tuple(point for point in self.points if not unsound(point))

    @property
    def unit(self) -> str:
        """What the levels count, for people."""
        return UNITS[self.kind]


def sweeps(run: LoadRun) -> list[Sweep]:
    """A run's points by what their level counts."""
    kinds = dict.fromkeys(point.kind for point in run.points)
    return [Sweep(run, kind, ordered([p for p in run.points if p.kind == kind])) for kind in kinds]


def ordered(points: Sequence[Point]) -> tuple[Point, ...]:
    """By level; of two at the same level, the slower first."""
    return tuple(sorted(points, key=lambda p: (p.level, -(p.latency.p99 if p.latency else float("inf")))))


def unsound(point: Point) -> str | None:
    """Why a point is left out, None if it is not."""
    if point.latency is None or point.requests_per_second <= 0:
        return "nothing was answered"
    if point.errors > _MOST_ERRORS * (point.requests + point.errors):
        return "most requests failed"
    return "the tool found it not steady" if point.stable is False else None


def level(point: Point) -> str:
    """A point's level, for people: ``concurrency 8``, ``Poisson rate 200/s``, ``40 users``."""
    said = number(point.level)
    if point.kind == "users":
        return "1 user" if point.level == 1 else f"{said} users"
    if point.kind == "concurrency":
        return f"concurrency {said}"
    return f"{_NAMES[point.kind]} {said}/s"
