"""What two load tests do not have in common, beside what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.report.sweep import level
from loadtest.results import LoadRun, Point
from tritonforge.page.formats import label, number

# Where these differ, a request is another thing, and so is its time.
_DECISIVE = ("task", "items_per_request", "length_mix", "corpus")
_TOLD = ("tool", "tool_version", "target", "model", "engine", "engine_threads", "shared_memory", "server")
_MACHINE = ("cpu", "cores", "memory_bytes", "gpu")
_MEMORY = 0.02  # share by which memory differs on machines of one kind
_SECONDS = 1.5  # factor between the lengths of two points


@dataclass(frozen=True)
class Difference:
    """One setting that the two sides do not share.

    Attributes:
        name: For people.
        a: On the one side.
        b: On the other.
        decisive: Whether it makes a request another thing.
    """

    name: str
    a: str
    b: str
    decisive: bool = False


def differences(a: Sequence[LoadRun], b: Sequence[LoadRun]) -> list[Difference]:
    """What the settings of two sides differ in, what decides first; a side's runs may differ too."""
    found = [_difference(key, [_values(runs, key) for runs in (a, b)], True) for key in _DECISIVE]
    found += [_difference(key, [_values(runs, key) for runs in (a, b)], False) for key in _TOLD]
    for key in _MACHINE:
        sides = [
            list(dict.fromkeys(str(getattr(run.setting.machine, key)) for run in runs)) for runs in (a, b)
        ]
        if key == "memory_bytes" and _alike([float(one) for side in sides for one in side], 1 + _MEMORY):
            continue
        found.append(_difference(f"machine_{key}", sides, False))
    found.append(_lengths(a, b))
    return [one for one in found if one is not None]


def _values(runs: Sequence[LoadRun], key: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(run.setting, key)) for run in runs))


def _difference(name: str, sides: Sequence[Sequence[str]], decisive: bool) -> Difference | None:
    if len({value for side in sides for value in side}) <= 1:
        return None
    one, other = (" or ".join(side) for side in sides)
    return Difference(label(name), one, other, decisive)


def _alike(values: Sequence[float], factor: float) -> bool:
    return max(values) <= factor * min(values)


def _lengths(a: Sequence[LoadRun], b: Sequence[LoadRun]) -> Difference | None:
    """How long points were measured: the longer, the surer, and the further into a growing queue."""
    sides = [[point.seconds for run in runs for point in run.points] for runs in (a, b)]
    if not all(sides) or _alike([sum(side) / len(side) for side in sides], _SECONDS):
        return None
    said = [f"{number(sum(side) / len(side))} s a level" for side in sides]
    return Difference("measured", said[0], said[1])


def load_key(point: Point) -> tuple[str, float]:
    """What levels are matched by: a user of locust has one request in flight, as one of perf_analyzer's."""
    return ("concurrency" if point.kind == "users" else point.kind, point.level)


def unmatched(a: Sequence[LoadRun], b: Sequence[LoadRun]) -> list[str]:
    """Levels that only one side has, in words."""
    sides = [{load_key(p): p for run in runs for p in run.points} for runs in (a, b)]
    said = []
    for name, own, other in (("A", sides[0], sides[1]), ("B", sides[1], sides[0])):
        alone: list[Point] = [point for key, point in own.items() if key not in other]
        if alone:
            said.append(f"only {name} has {', '.join(level(point) for point in alone)}")
    return said
