"""Two load tests, A and B: how their levels differ, and whether that is more than chance.

One run a side is judged by its windows: Welch's t-test on their means [Welch 1947, Biometrika 34], each side
counted for as many independent windows as their correlation leaves (`windows.py`). That tells whether *these
two runs* differ. What changes from one start of a server to the next is in no window of one run, and can be
as large [Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time", ISMM].

Several runs a side are judged by their spread: Student's t-test on the logarithms, one value a run. That
tells whether the servers differ, under the settings of the runs.

All levels and figures are judged together, so that one in twenty *comparisons*, not figures, finds a
difference where there is none [Holm 1979, Scandinavian J. Statistics 6]. Intervals are drawn at the level at
which Holm's procedure judged the figure: they hold 1 exactly where no difference can be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy import stats

from loadtest.errors import LoadTestError
from loadtest.report.differences import Difference, differences, load_key, unmatched
from loadtest.report.slo import errors
from loadtest.report.sweep import level, ordered
from loadtest.report.windows import LEAST_WINDOWS, correlation, series, window_values
from loadtest.results import LoadRun, Point

Verdict = Literal["better", "worse", "unclear", "not judged"]
ALPHA = 0.05
THROUGHPUT = "throughput"
_OF_WINDOWS = {THROUGHPUT: "rate", "p50": "p50", "p99": "p99"}
_MORE_FAILED = 0.01  # share of requests


@dataclass(frozen=True)
class Cell:
    """One figure at one level, of both sides.

    Attributes:
        at: A point of the level.
        name: ``throughput`` (requests/s), ``p50``, ``first token p99`` (milliseconds) and so on.
        a: Its value in A: the mean of windows, or of runs.
        b: The same in B.
        ratio: B over A.
        low: Bounds of the ratio; None where it is not judged.
        high: The upper one.
        chance: Of a difference as large where there is none, before the correction.
        verdict: Of B against A.
        why: Why it is not judged.
    """

    at: Point
    name: str
    a: float
    b: float
    ratio: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    verdict: Verdict = "not judged"
    why: str = ""

    @property
    def change(self) -> float:
        """By how much B is worse, as a share of A: positive if worse."""
        return 1 - self.ratio if self.name == THROUGHPUT else self.ratio - 1


@dataclass(frozen=True)
class _Judged:
    """A cell with what its interval is made of: the ratio's logarithm, its error, degrees of freedom."""

    cell: Cell
    log_ratio: float
    error: float
    freedom: float


@dataclass(frozen=True)
class Comparison:
    """Two sides, and what differs.

    Attributes:
        a: Runs of the one side.
        b: Runs of the other.
        settings: What they do not share; read it first.
        cells: By level, in order.
        notes: What a reader should know.
    """

    a: tuple[LoadRun, ...]
    b: tuple[LoadRun, ...]
    settings: tuple[Difference, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    @property
    def by_runs(self) -> bool:
        """Whether the spread between runs judges, and not that between windows of one."""
        return len(self.a) > 1 or len(self.b) > 1

    def found(self, verdict: Verdict) -> list[Cell]:
        """Cells of one verdict."""
        return [cell for cell in self.cells if cell.verdict == verdict]

    def regressions(self, percent: float) -> list[str]:
        """Where B is worse for sure, and by more than a share as measured, in words.

        Args:
            percent: Of throughput lost, of latency gained, or of requests that fail more.
        """
        said = [
            f"{cell.name} at {level(cell.at)} is worse by {cell.change:.1%}"
            for cell in self.found("worse")
            if 100 * cell.change > percent
        ]
        for at, one, other in _levels(self.a, self.b):
            more = max(map(errors, other)) - max(map(errors, one))
            if 100 * more > max(percent, 100 * _MORE_FAILED):
                said.append(f"{more:.1%} more of the requests fail at {level(at)}")
        return said


def compare(a: Sequence[LoadRun], b: Sequence[LoadRun]) -> Comparison:
    """Compare two sides, level by level.

    Args:
        a: One run or more; what B is compared to.
        b: One run or more.

    Raises:
        LoadTestError: They have no level in common.
    """
    matched = list(_levels(a, b))
    if not matched:
        raise LoadTestError(
            f"A and B have no level of load in common ({'; '.join(unmatched(a, b)) or 'no points'})",
            mend="run both with the same levels",
        )
    if len(a) > 1 or len(b) > 1:
        judged = [one for level_ in matched for one in _by_runs(*level_)]
    else:
        # Windows of one level are few; of all levels they tell better how alike neighbours are.
        alike = {
            key: correlation([window_values(p, key) for _, one, other in matched for p in (*one, *other)])
            for key in _OF_WINDOWS.values()
        }
        judged = [
            one for at, (left, *_), (right, *_) in matched for one in _by_windows(at, left, right, alike)
        ]
    notes = [*unmatched(a, b), *_notes(a, b, matched)]
    return Comparison(tuple(a), tuple(b), tuple(differences(a, b)), tuple(_holm(judged)), tuple(notes))


def _levels(a: Sequence[LoadRun], b: Sequence[LoadRun]) -> list[tuple[Point, list[Point], list[Point]]]:
    """Levels that both sides have, with the points of each; one point a run."""
    sides: list[dict[tuple[str, float], list[Point]]] = []
    for runs in (a, b):
        side: dict[tuple[str, float], list[Point]] = {}
        for run in runs:
            for key, point in {load_key(p): p for p in ordered(run.points)}.items():
                if point.latency is not None:
                    side.setdefault(key, []).append(point)
        sides.append(side)
    return [(points[0], points, sides[1][key]) for key, points in sides[0].items() if key in sides[1]]


def _notes(
    a: Sequence[LoadRun], b: Sequence[LoadRun], matched: Sequence[tuple[Point, list[Point], list[Point]]]
) -> list[str]:
    notes = []
    for at, these, those in matched:
        shares = [max(map(errors, side)) for side in (these, those)]
        if abs(shares[1] - shares[0]) > _MORE_FAILED:
            notes.append(
                f"at {level(at)} {shares[0]:.1%} of A's requests failed and {shares[1]:.1%} of B's: times "
                "are of those answered, and a server that refuses is quick"
            )
        if len({point.kind for point in (*these, *those)}) > 1:
            notes.append(f"{level(at)} in A is compared to {level(those[0])} in B: as many in flight at most")
        if any(point.stable is False for point in (*these, *those)):
            notes.append(f"{level(at)} was not steady on one side at least, as its tool found")
    if len(a) == len(b) == 1:
        notes.append(
            "one run a side: this judges the two runs; run each side three times or more, in turns, to judge "
            "the servers"
        )
    elif min(len(a), len(b)) < 3:
        notes.append("fewer than three runs on a side: only large differences can be told")
    return notes


def _figures(point: Point) -> dict[str, float]:
    """What runs are compared by."""
    found = {THROUGHPUT: point.requests_per_second}
    for prefix, times, names in (
        ("", point.latency, ("p50", "p95", "p99")),
        ("first token ", point.first_token, ("p50", "p99")),
        ("per token ", point.per_token, ("p50", "p99")),
    ):
        if times is not None:
            found |= {f"{prefix}{name}": float(getattr(times, name)) for name in names}
    return found


def _by_windows(at: Point, a: Point, b: Point, alike: Mapping[str, float]) -> list[_Judged | Cell]:
    """One run a side; ``alike`` is the least correlation of neighbours, by figure of a window."""
    judged: list[_Judged | Cell] = []
    one, other = _figures(a), _figures(b)
    for name, key in _OF_WINDOWS.items():
        found = series(window_values(a, key), window_values(b, key), least=alike[key])
        if found is None:
            if one[name] > 0 and other[name] > 0:
                why = f"fewer than {LEAST_WINDOWS} windows on a side"
                judged.append(_cell(at, name, one[name], other[name], why))
            continue
        variances = [side.relative_variance for side in found]
        freedom = [side.effective - 1 for side in found]
        total = sum(variances)
        parts = sum(v**2 / f for v, f in zip(variances, freedom, strict=True))
        cell = _cell(at, name, found[0].mean, found[1].mean)
        welch = total**2 / parts if parts else sum(freedom)
        judged.append(_Judged(cell, math.log(cell.ratio), math.sqrt(total), welch))
    for name in one.keys() & other.keys():
        if "token" in name and one[name] > 0 and other[name] > 0:
            judged.append(_cell(at, name, one[name], other[name], "windows hold no times of tokens"))
    return sorted(judged, key=lambda cell: list(one).index(_bare(cell).name))


def _by_runs(at: Point, a: Sequence[Point], b: Sequence[Point]) -> list[_Judged | Cell]:
    """Several runs a side: equal spread is assumed of both, for two runs show too little of their own."""
    judged: list[_Judged | Cell] = []
    sides = [[_figures(point) for point in side] for side in (a, b)]
    freedom = len(a) + len(b) - 2
    for name in sides[0][0]:
        values = [[run[name] for run in side if run.get(name, 0) > 0] for side in sides]
        if [len(side) for side in values] != [len(a), len(b)]:
            continue
        logs = [[math.log(value) for value in side] for side in values]
        means = [sum(side) / len(side) for side in logs]
        cell = _cell(at, name, math.exp(means[0]), math.exp(means[1]))
        if freedom < 1:
            judged.append(replace(cell, why="one run a side has this level"))
            continue
        squares = sum((x - mean) ** 2 for side, mean in zip(logs, means, strict=True) for x in side)
        error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
        judged.append(_Judged(cell, means[1] - means[0], error, freedom))
    return judged


def _cell(at: Point, name: str, a: float, b: float, why: str = "") -> Cell:
    return Cell(at, name, a, b, b / a, why=why)


def _bare(judged: _Judged | Cell) -> Cell:
    return judged.cell if isinstance(judged, _Judged) else judged


def _holm(judged: Sequence[_Judged | Cell]) -> list[Cell]:
    """Verdicts, with intervals at the level of each."""
    tested = [(index, one) for index, one in enumerate(judged) if isinstance(one, _Judged)]
    ranked = sorted(((_chance(one), index, one) for index, one in tested), key=lambda each: each[:2])
    cells = [_bare(one) for one in judged]
    open_still, alpha = True, ALPHA
    for rank, (chance, index, one) in enumerate(ranked):
        if open_still:
            alpha = ALPHA / (len(ranked) - rank)
            open_still = chance < alpha
        half = float(stats.t.ppf(1 - alpha / 2, one.freedom)) * one.error
        worse = (one.log_ratio < 0) == (one.cell.name == THROUGHPUT)
        cells[index] = replace(
            one.cell,
            low=math.exp(one.log_ratio - half),
            high=math.exp(min(50.0, one.log_ratio + half)),
            chance=chance,
            verdict=("worse" if worse else "better") if open_still else "unclear",
        )
    return cells


def _chance(one: _Judged) -> float:
    """Two-sided."""
    if one.error == 0:
        return 1.0 if one.log_ratio == 0 else 0.0
    return float(2 * stats.t.sf(abs(one.log_ratio) / one.error, one.freedom))
