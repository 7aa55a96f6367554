"""What is asked of a service: bounds on times and on errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadtest.results import Point
from tritonforge.page.formats import number

Timed = Literal["latency", "first_token", "per_token"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]
NAMES: dict[Timed, str] = {"latency": "", "first_token": "first token ", "per_token": "per token "}


@dataclass(frozen=True)
class Objective:
    """One bound on a time.

    Attributes:
        of: Whole answers, the first token, or the tokens after it.
        statistic: Which figure of the distribution.
        limit: Milliseconds.
    """

    of: Timed
    statistic: Statistic
    limit: float

    @property
    def name(self) -> str:
        """For people, without the limit: ``first token p99``."""
        return f"{NAMES[self.of]}{self.statistic}"

    def __str__(self) -> str:
        """For people: ``p99 50 ms``."""
        return f"{self.name} {number(self.limit)} ms"

    def value(self, point: Point) -> float | None:
        """The figure of a point, milliseconds; None where it has none."""
        times = getattr(point, self.of)
        return None if times is None else float(getattr(times, self.statistic))


@dataclass(frozen=True)
class Slo:
    """A service level objective: all its bounds hold at once.

    Attributes:
        objectives: At least one.
        error_share: Largest share of requests that may fail.
    """

    objectives: tuple[Objective, ...]
    error_share: float = 0.01

    def __str__(self) -> str:
        """For people: ``p99 50 ms and first token p99 200 ms``."""
        return " and ".join(map(str, self.objectives))

    def missed(self, point: Point) -> list[str]:
        """What a point misses, in words; empty if it meets all."""
        found = [
            f"{objective.name} is {number(value)} ms"
            for objective in self.objectives
            if (value := objective.value(point)) is not None and value > objective.limit
        ]
        found += [f"no {o.name} was measured" for o in self.objectives if o.value(point) is None]
        share = errors(point)
        if share > self.error_share:
            found.append(f"{share:.2%} of the requests failed")
        return found


def errors(point: Point) -> float:
    """Share of a point's requests that failed."""
    asked = point.requests + point.errors
    return point.errors / asked if asked else 0.0
