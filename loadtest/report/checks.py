"""What makes the figures of a run less than they seem; each is said in words, beside the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from scipy import stats

from loadtest.report.slo import errors
from loadtest.report.sweep import level, sweeps, unsound
from loadtest.report.windows import full_windows, window_values
from loadtest.results import LoadRun, Point, Sample
from tritonforge.page.formats import number

_LITTLE = (0.9, 1.05)  # requests in flight, by Little's law, over those that were set
_LONG = 0.1  # a mean answer, of the time measured
_DELIVERED = 0.97  # answered or failed, over those that should have been sent
_TAIL_REQUESTS = 500  # five beyond the 99th percentile
_TREND_WINDOWS, _TREND_CHANCE, _TREND_SHARE = 8, 0.01, 0.1
_ONE_CORE = 0.85  # CPUs, of a client that has one thread for its work
_FULL, _CLIENT_SHARE = 0.95, 0.15  # of all cores


def warnings(run: LoadRun) -> list[str]:
    """What a reader should know of a run, the gravest first."""
    points = [point for sweep in sweeps(run) for point in sweep.points]
    return [
        *_failures(points),
        *_left_out(points),
        *_client(run, points),
        *_little(points),
        *_undelivered(points),
        *_trends(points),
        *_few(points),
    ]


def _named(points: Sequence[Point]) -> str:
    """Levels, at most four of them."""
    names = [level(point) for point in points[:4]]
    return ", ".join(names) + (f" and {len(points) - 4} more" if len(points) > 4 else "")


def _failures(points: Sequence[Point]) -> Iterator[str]:
    failing = [point for point in points if point.errors]
    for point in failing[:4]:
        worst = max(point.error_kinds.items(), key=lambda kind: kind[1], default=("no message", 0))
        yield (
            f"{errors(point):.2%} of the requests failed at {level(point)} (most often: {worst[0]}). "
            "Latencies are of those answered."
        )
    if len(failing) > 4:
        yield f"Requests failed at {_named(failing[4:])} too."


def _left_out(points: Sequence[Point]) -> Iterator[str]:
    for reason in dict.fromkeys(why for point in points if (why := unsound(point))):
        named = _named([point for point in points if unsound(point) == reason])
        yield f"Left out of capacity and knee: {named}. There {reason}."


def concurrency_by_little(point: Point) -> float | None:
    """Requests in flight by Little's law: throughput times mean latency [Little 1961, Operations Res. 9]."""
    return point.requests_per_second * point.latency.mean / 1e3 if point.latency else None


def _little(points: Sequence[Point]) -> Iterator[str]:
    low, high = [], []
    for point in points:
        found = concurrency_by_little(point)
        if found is None or point.kind not in ("concurrency", "users") or errors(point) > 0.01:
            continue
        if point.latency is None or point.latency.mean > _LONG * 1e3 * point.seconds:
            continue  # requests that were cut off at its ends are too many to leave out
        share = found / point.level
        if share > _LITTLE[1]:
            high.append(point)
        elif share < _LITTLE[0] and point.kind == "concurrency":  # users may wait between requests
            low.append(point)
    if low:
        yield (
            f"By Little's law fewer requests were in flight than set at {_named(low)}: the client took time "
            "between requests, and the server could have done more."
        )
    if high:
        yield (
            f"By Little's law more requests were in flight than set at {_named(high)}: the times are not "
            "counted right, or the point holds requests from before it."
        )


def _undelivered(points: Sequence[Point]) -> Iterator[str]:
    behind = [
        point
        for point in points
        if point.kind in ("request_rate", "poisson")
        and (point.requests + point.errors) / point.seconds < _DELIVERED * point.level
    ]
    if behind:
        yield (
            f"Fewer requests were answered than sent at {_named(behind)}: there the server is beyond what it "
            "can do (or the client is), queues grow, and latency tells how long was measured."
        )


def samples_of(run: LoadRun, point: Point) -> list[Sample]:
    """The samples taken while a point was measured."""
    return [s for s in run.samples if point.started <= s.at <= point.started + point.seconds]


def _client(run: LoadRun, points: Sequence[Point]) -> Iterator[str]:
    cores, alone, together = run.setting.machine.cores, [], []
    for point in points:
        samples = samples_of(run, point)
        client = [s.client_cpu for s in samples if s.client_cpu is not None]
        server = [s.cpu for s in samples if s.cpu is not None]
        if not client:
            continue
        if run.setting.tool == "locust" and _ONE_CORE <= fmean(client) <= 1.1:
            alone.append(point)
        elif (
            server
            and fmean(client) >= _CLIENT_SHARE * cores
            and fmean(client) + fmean(server) >= _FULL * cores
        ):
            together.append(point)
    if alone:
        yield (
            f"The client used a whole core at {_named(alone)}, which is all that one process of locust can: "
            "it may have been the bottleneck. Give it workers."
        )
    if together:
        yield (
            f"Client and server together used all {cores} cores at {_named(together)}: the throughput is "
            "that of both, and the server alone does more. Send the load from another machine."
        )


def _trends(points: Sequence[Point]) -> Iterator[str]:
    """Points whose windows go up or down all along (Kendall's tau, and Theil-Sen's slope for how much)."""
    for point in points:
        for name, said in (("rate", "throughput"), ("p50", "median latency")):
            values = window_values(point, name)
            if len(values) < _TREND_WINDOWS or fmean(values) <= 0:
                continue
            tau = stats.kendalltau(range(len(values)), values)
            change = float(stats.theilslopes(values)[0]) * (len(values) - 1) / fmean(values)
            if tau.pvalue < _TREND_CHANCE and abs(change) > _TREND_SHARE:
                way = "rose" if change > 0 else "fell"
                yield (
                    f"The {said} {way} by {abs(change):.0%} during {level(point)}: it was not steady, and "
                    "its mean tells little. Warm up longer, or measure longer."
                )


def _few(points: Sequence[Point]) -> Iterator[str]:
    few = [point for point in points if 0 < point.requests < _TAIL_REQUESTS]
    if few:
        yield (
            f"Fewer than {_TAIL_REQUESTS} requests were answered at {_named(few)}: a p99 stands on fewer "
            f"than {number(_TAIL_REQUESTS // 100)} slow ones."
        )
    blind = [point for point in points if point.requests and not full_windows(point)]
    if blind:
        yield f"No windows were recorded at {_named(blind)}: nothing can be said of their spread."
