"""Warnings: each comes where it should, and none where nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.report.checks import concurrency_by_little, warnings
from loadtest.results import Latency, Point, Sample, Window
from tests.loadtest.report.synthetic import Noise, mm1, point, run


def closed(level: float = 8, flight: float = 8, **fields: Any) -> Point:
    """A point of 200 requests/s with as many in flight by Little's law."""
    mean = 1e3 * flight / 200
    times = Latency(mean=mean, p50=mean, p90=mean, p95=mean, p99=mean)
    return point(level, 200.0, times, noise=fields.pop("noise", Noise(1, windows=20)), **fields)


def samples(client: float, server: float) -> list[Sample]:
    return [Sample(at=float(at), client_cpu=client, cpu=server) for at in range(60)]


def test_nothing_is_said_of_a_good_run() -> None:
    assert warnings(run([closed()], samples=samples(0.2, 1.2))) == []
    steady = sum(bool(warnings(run([closed(noise=Noise(seed, windows=20))]))) for seed in range(100))
    assert steady <= 3


@pytest.mark.parametrize(
    ("flight", "said"), [(6.0, "fewer requests were in flight"), (10.0, "more requests")]
)
def test_littles_law(flight: float, said: str) -> None:
    found = closed(flight=flight)
    assert concurrency_by_little(found) == pytest.approx(flight, rel=0.1)
    assert said in warnings(run([found]))[0]
    users = warnings(run([closed(flight=flight, kind="users")]))
    assert bool(users) == (flight > 8), "users may wait between requests"
    assert warnings(run([closed(kind="request_rate", level=200, flight=flight)])) == []
    assert "in flight" not in " ".join(warnings(run([closed(level=8, flight=flight, seconds=0.2)])))


def test_a_client_that_is_the_bottleneck() -> None:
    core = run([closed()], samples=samples(0.97, 0.6), tool="locust")
    assert "all that one process of locust can" in warnings(core)[0]
    assert warnings(run([closed()], samples=samples(1.6, 0.2), tool="locust")) == [], "it has workers"
    both = run([closed()], samples=samples(0.5, 1.45))
    assert "the server alone does more" in warnings(both)[0]


def test_samples_of_other_times_do_not_count() -> None:
    early = [s.model_copy(update={"at": s.at - 1000}) for s in samples(0.97, 0.97)]
    assert warnings(run([closed()], samples=early, tool="locust")) == []


def test_windows_that_go_up_all_along() -> None:
    for growth, way in ((1.0, "rose"), (-0.5, "fell")):
        windows = tuple(
            Window(seconds=3, requests=int(600 * (1 + growth * at / 19)), p50=40.0, p99=50.0)
            for at in range(20)
        )
        trend = closed().model_copy(update={"windows": windows})
        assert f"throughput {way} by" in warnings(run([trend]))[0]


def test_a_rate_that_was_not_delivered() -> None:
    (behind,) = mm1((90,), noise=Noise(1), seconds=100.0)
    behind = behind.model_copy(update={"level": 150.0})
    assert warnings(run([behind]))[0].startswith(
        "Fewer requests were answered than sent at Poisson rate 150/s"
    )


def test_failures_and_what_is_left_out() -> None:
    failing = closed(errors=300, error_kinds={"deadline exceeded": 290, "reset": 10}, stable=False)
    said = warnings(run([failing]))
    assert said[0].startswith("2.48% of the requests failed at concurrency 8 (most often: deadline exceeded)")
    assert said[1] == "Left out of capacity and knee: concurrency 8. There the tool found it not steady."


def test_few_requests_make_no_tail() -> None:
    few = closed(seconds=2.0, noise=None)
    assert [said.split(" at ")[0] for said in warnings(run([few]))] == [
        "Fewer than 500 requests were answered",
        "No windows were recorded",
    ]
