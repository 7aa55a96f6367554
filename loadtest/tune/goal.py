"""What is sought: one number for a server, from what was measured at each number of requests in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Literal

from pydantic import BaseModel, ConfigDict

Objective = Literal["throughput", "latency"]


class Look(BaseModel):
    """A server under one load.

    Attributes:
        level: Requests in flight.
        items_per_second: Texts (encoders) or tokens (generators).
        p50_ms: Median latency; of generators the time to the first token.
        p99_ms: 99th percentile of the same, which the SLO bounds.
    """

    model_config = ConfigDict(frozen=True)

    level: int
    items_per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Score:
    """What a server is worth.

    Attributes:
        value: More is better; above 0.
        violation: By which share of the SLO its best p99 exceeds it; 0 where it is met.
    """

    value: float
    violation: float = 0.0


@dataclass(frozen=True)
class Goal:
    """What is sought.

    Attributes:
        objective: ``throughput``, or ``latency``: the least median with one request in flight.
        levels: Requests in flight to measure with, in rising order.
        slo_p99_ms: What p99 must not exceed; None: anything goes.
    """

    objective: Objective
    levels: tuple[int, ...]
    slo_p99_ms: float | None = None

    @property
    def unit(self) -> str:
        """Of :attr:`Score.value`, for people."""
        return "requests/s" if self.objective == "latency" else "items/s"

    def met_by(self, look: Look) -> bool:
        """Whether a load is within the SLO."""
        return self.slo_p99_ms is None or look.p99_ms <= self.slo_p99_ms

    def score(self, looks: Sequence[Look]) -> Score:
        """Judge a server.

        Without an SLO: the geometric mean of the throughputs, so that each level counts as a ratio. With one:
        the throughput at the load where p99 reaches it, between two levels by interpolation over log p99;
        so a p99 that noise moves across the SLO moves the score a little, not by a whole level. A server that
        misses it at the lowest level gets that level's throughput, less the share by which it misses.

        Args:
            looks: In rising order of levels, one at least.
        """
        if self.objective == "latency":
            value = 1000.0 / looks[0].p50_ms
            return Score(value, 0.0 if self.met_by(looks[0]) else looks[0].p99_ms / self._slo - 1.0)
        if self.slo_p99_ms is None:
            return Score(geometric_mean([look.items_per_second for look in looks]))
        if not self.met_by(looks[0]):
            over = looks[0].p99_ms / self._slo
            return Score(looks[0].items_per_second / over, over - 1.0)
        best = 0.0
        for number, look in enumerate(looks):
            if not self.met_by(look):
                below = looks[number - 1]
                share = math.log(self._slo / below.p99_ms) / math.log(look.p99_ms / below.p99_ms)
                at_slo = below.items_per_second + share * (look.items_per_second - below.items_per_second)
                return Score(max(best, at_slo))
            best = max(best, look.items_per_second)
        return Score(best)

    def decisive(self, looks: Sequence[Look]) -> Look:
        """The load by which another server shows soonest that it cannot win.

        The highest that meets the SLO; the lowest where none does.
        """
        return next((look for look in reversed(looks) if self.met_by(look)), looks[0])

    def hopeless(self, first: Look, anchor: Look, noise: float = 0.0) -> bool:
        """Whether a first look is so far behind the default's at the same load that more would tell nothing.

        Args:
            first: A short look at a setting.
            anchor: The default's.
            noise: By which share two looks at the default differ; a busy machine gives nothing up so soon.
        """
        return self.ratio(first, anchor) < _HOPELESS / (1 + 2 * noise)

    def ratio(self, look: Look, anchor: Look) -> float:
        """How much better a server is than the default at the same load."""
        if self.objective == "latency":
            return anchor.p50_ms / look.p50_ms
        return look.items_per_second / anchor.items_per_second

    @property
    def _slo(self) -> float:
        assert self.slo_p99_ms is not None
        return self.slo_p99_ms


_HOPELESS = 0.7
