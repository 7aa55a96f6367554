"""Two load tests compared, where it is known whether they differ."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtest.errors import LoadTestError
from loadtest.report.compare import Comparison, compare
from loadtest.report.differences import differences
from loadtest.report.words import comparison_sentence, interval_words
from loadtest.results import Latency, LoadRun, Machine, Point
from tests.loadtest.report.synthetic import Noise, mm1, mm1_latency, point, run

LEVELS = (1, 4, 16)


def server(seed: int, speed: float = 1.0, correlation: float = 0.0, windows: int = 20) -> LoadRun:
    """A run of a server in a closed loop, which does ``speed`` times as much."""
    noise = Noise(seed, spread=0.04, correlation=correlation, windows=windows)
    points = []
    for level in LEVELS:
        rate = speed * 300 * level / (level + 3)
        mean = 1e3 * level / rate
        times = Latency(mean=mean, p50=mean, p90=1.3 * mean, p95=1.5 * mean, p99=2 * mean)
        points.append(point(level, rate, times, noise=noise))
    return run(points)


def told(found: Comparison) -> int:
    return len(found.found("better")) + len(found.found("worse"))


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_equal_servers_are_rarely_told_apart(correlation: float) -> None:
    wrong = sum(
        told(compare([server(2 * seed, 1, correlation)], [server(2 * seed + 1, 1, correlation)])) > 0
        for seed in range(60)
    )
    assert wrong <= 6  # of 3 expected; more come by chance about once in thirty


def test_equal_servers_of_several_runs_are_rarely_told_apart() -> None:
    wrong = 0
    for seed in range(0, 360, 6):
        runs = [server(seed + at) for at in range(6)]
        wrong += told(compare(runs[:3], runs[3:])) > 0
    assert wrong <= 6  # of 3 expected in 60


def test_a_tenth_is_found_and_its_interval_holds_it() -> None:
    found, held = 0, 0
    for seed in range(20):
        comparison = compare([server(2 * seed)], [server(2 * seed + 1, 1.1)])
        assert comparison.found("worse") == []
        found += len(comparison.found("better"))
        for cell in comparison.cells:
            truth = 1.1 if cell.name == "throughput" else 1 / 1.1
            assert cell.low is not None and cell.high is not None
            held += cell.low <= truth <= cell.high
    assert found >= 0.8 * 20 * 9
    assert held >= 0.95 * 20 * 9


def test_a_tenth_is_found_by_runs() -> None:
    slow, fast = [server(seed) for seed in range(3)], [server(seed, 1.1) for seed in range(3, 6)]
    comparison = compare(slow, fast)
    assert comparison.by_runs
    assert {cell.name for cell in comparison.cells} == {"throughput", "p50", "p95", "p99"}
    assert len(comparison.found("better")) >= 9 and comparison.found("worse") == []
    back = compare(fast, slow)
    assert len(back.found("worse")) == len(comparison.found("better"))
    assert back.regressions(5.0) and not back.regressions(20.0) and not comparison.regressions(0.0)


def test_intervals_agree_with_verdicts() -> None:
    for seed in range(30):
        for cell in compare([server(seed)], [server(seed + 100, 1.04)]).cells:
            assert cell.low is not None and cell.high is not None
            assert cell.low <= cell.ratio <= cell.high
            assert (cell.verdict == "unclear") == (cell.low <= 1 <= cell.high)


def test_no_difference_is_said_with_what_could_not_be_seen() -> None:
    said = comparison_sentence(compare([server(1)], [server(2)]))
    assert said.startswith("No difference can be told from these runs. One smaller than about ")


def test_few_windows_are_not_judged() -> None:
    found = compare([server(1, windows=5)], [server(2, 3.0, windows=5)])
    assert {cell.verdict for cell in found.cells} == {"not judged"}
    assert comparison_sentence(found) == "Nothing can be judged: the runs have too few windows."
    assert found.regressions(1.0) == []


def test_tokens_are_shown_and_judged_by_runs_only() -> None:
    def streaming(seed: int, slower: float = 1.0) -> LoadRun:
        points = []
        for p in server(seed).points:
            assert p.latency is not None
            own = Latency(**{k: slower * v for k, v in p.latency.model_dump().items() if v is not None})
            points.append(p.model_copy(update={"first_token": own, "per_token": own}))
        return run(points, task="generation")

    one = compare([streaming(1)], [streaming(2)])
    assert {c.name for c in one.found("not judged")} == {
        f"{name} {p}" for name in ("first token", "per token") for p in ("p50", "p99")
    }
    several = compare([streaming(s) for s in range(4)], [streaming(s, 1.5) for s in range(4, 8)])
    assert {c.name for c in several.found("worse")} == {c.name for c in one.found("not judged")}
    assert one.found("not judged")[0].why == "windows hold no times of tokens"


def test_only_common_levels_are_compared() -> None:
    a, b = server(1), server(2)
    b = b.model_copy(update={"points": b.points[1:]})
    found = compare([a], [b])
    assert {cell.at.level for cell in found.cells} == {4, 16}
    assert "only A has concurrency 1" in found.notes
    with pytest.raises(LoadTestError, match="no level of load in common") as caught:
        compare([a], [run(mm1())])
    assert caught.value.mend


def test_users_are_requests_in_flight() -> None:
    a, b = server(1), server(2)
    b = run([p.model_copy(update={"kind": "users"}) for p in b.points], tool="locust")
    found = compare([a], [b])
    assert {cell.at.level for cell in found.cells} == set(LEVELS)
    assert "concurrency 4 in A is compared to 4 users in B: as many in flight at most" in found.notes


def test_large_differences_are_factors_and_wide_intervals_are_cut() -> None:
    a, b = server(1), server(2, 10.0)
    assert " (by a factor of " in comparison_sentence(compare([a], [b]))
    noisy = [
        run([point(1, 100.0, mm1_latency(90.0), noise=Noise(s, spread=0.9, correlation=0.9, windows=6))])
        for s in (1, 2)
    ]
    for cell in compare([noisy[0]], [noisy[1]]).cells:
        assert cell.verdict == "unclear"
        assert len(interval_words(cell)) <= len("0.123 to 1.234")


def test_failures_are_no_speed() -> None:
    a, b = server(1), server(2)
    points = [p.model_copy(update={"errors": p.requests}) for p in b.points]
    found = compare([a], [b.model_copy(update={"points": points})])
    assert sum("50.0% of B's" in note for note in found.notes) == len(LEVELS)
    assert found.regressions(10.0) == [f"50.0% more of the requests fail at concurrency {n}" for n in LEVELS]


def test_equal_windows_are_equal() -> None:
    points: Sequence[Point] = [
        point(n, 10.0, Latency(mean=1, p50=1, p90=1, p95=1, p99=1), noise=Noise(0, spread=0.0))
        for n in LEVELS
    ]
    assert told(compare([run(points)], [run(points)])) == 0


def test_what_settings_differ_in() -> None:
    machine = Machine(cpu="another", cores=8, memory_bytes=8 << 30)
    a, b = (
        server(1),
        run(server(2).points, machine=machine, engine_threads=8, length_mix="128:1", tool="locust"),
    )
    found = {one.name: one for one in differences([a], [b])}
    assert {name for name, one in found.items() if one.decisive} == {"length mix"}
    assert set(found) == {"length mix", "tool", "engine threads", "machine cpu", "machine cores"}
    assert (found["engine threads"].a, found["engine threads"].b) == ("2", "8")
    assert differences([a], [server(2)]) == []
    longer = run([p.model_copy(update={"seconds": 600.0}) for p in a.points])
    assert [one.name for one in differences([a], [longer])] == ["measured"]
