"""A run over its time."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.report.timeline import memory_growth, panels, server_rows, thin
from loadtest.report.words import growth_sentence
from loadtest.results import LoadRun, Sample
from tests.loadtest.report.synthetic import Noise, mm1, run


def soak(per_hour: float, seconds: int = 1200, noise: float = 2e6) -> LoadRun:
    chance = np.random.default_rng(0)
    leak = per_hour / 3600
    return run(
        [],
        samples=[
            Sample(at=1e9 + at, memory_bytes=int(1e9 + leak * at + noise * chance.standard_normal()))
            for at in range(seconds)
        ],
    )


def test_memory_that_grows() -> None:
    found = memory_growth(soak(60e6))
    assert found is not None and found.low < 60e6 < found.high
    assert found.per_hour == pytest.approx(60e6, rel=0.1)
    assert growth_sentence(found).startswith("Memory grew: ")


def test_memory_that_does_not() -> None:
    found = memory_growth(soak(0.0))
    assert found is not None and found.low < 0 < found.high
    assert growth_sentence(found).startswith("Memory neither grew nor fell for sure: ")


def test_an_hour_is_not_told_from_minutes() -> None:
    assert memory_growth(soak(60e6, seconds=300)) is None
    assert memory_growth(run([])) is None


def test_long_lines_are_thinned_to_their_means() -> None:
    line = [(float(at), float(at % 7)) for at in range(10_000)]
    short = thin(line)
    assert len(short) <= 400
    assert np.mean([y for _, y in short]) == pytest.approx(np.mean([y for _, y in line]), abs=0.01)
    assert thin(line[:10]) == line[:10]


def test_samples_are_told_by_level() -> None:
    points = mm1((10, 20), noise=Noise(1, windows=10))
    points = tuple(p.model_copy(update={"started": 1e9 + 100 * at}) for at, p in enumerate(points))
    samples = [Sample(at=1e9 + at, queue_ms=1.0 if at < 80 else 9.0, cpu=0.5) for at in range(160)]
    one = run(points, samples=samples)
    assert [(row["level"], row["queue, ms"], row["server, CPUs"]) for row in server_rows(one)] == [
        ("Poisson rate 10/s", 1.0, 0.5),
        ("Poisson rate 20/s", 9.0, 0.5),
    ]
    drawn = {panel.label: panel for panel in panels(one)}
    assert set(drawn) == {"requests/s", "latency, ms", "mean time, ms", "CPUs"}
    assert [x for x, _ in drawn["requests/s"].lines["answered"]][:2] == [3.0, 9.0]
    assert drawn["requests/s"].lines["answered"][10][0] == 103.0
