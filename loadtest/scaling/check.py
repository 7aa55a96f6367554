"""Holds predictions of one server against load tests of it: open loops, which nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.perf_analyzer.install import install
from loadtest.perf_analyzer.plan import Plan
from loadtest.perf_analyzer.runner import run
from loadtest.sampling import Watch
from loadtest.scaling.curve import WEIGHTS, simulate, weighted_quantile
from loadtest.scaling.events import Node
from loadtest.scaling.others import Others
from loadtest.scaling.profile import Profile

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the rate that the closed loops reached."""

_REQUESTS = 20_000


@dataclass(frozen=True)
class Comparison:
    """One rate, predicted and measured.

    Attributes:
        share: Of the rate that the closed loops reached.
        rate: Requests a second that arrived, Poisson.
        predicted_p50_s: Median latency by simulation.
        predicted_p99_s: 99th percentile by simulation.
        predicted_batch: Mean batch by simulation.
        p50_s: Median latency at the client.
        p99_s: 99th percentile at the client.
        batch: Mean batch, by the server's metrics; None: not seen.
        steady: Whether the client could keep the rate up, and the figures stood still.
        answered: Requests a second that were answered.
        others: CPUs that neither server nor client used, but somebody else.
    """

    share: float
    rate: float
    predicted_p50_s: float
    predicted_p99_s: float
    predicted_batch: float
    p50_s: float
    p99_s: float
    batch: float | None
    steady: bool
    answered: float
    others: float

    def off(self) -> float:
        """The larger of the factors by which the percentiles are off; 1 is exact."""
        factors = (self.predicted_p50_s / self.p50_s, self.predicted_p99_s / self.p99_s)
        return max(max(factor, 1 / factor) for factor in factors)


def compare(
    profile: Profile,
    url: str,
    watch: Watch,
    *,
    shares: Sequence[float] = SHARES,
    seconds: float = 10.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Comparison]:
    """Load the server that was measured with open loops, and predict each from the profile.

    Args:
        profile: What was measured of it.
        url: Its gRPC address.
        watch: Its metrics and processes.
        shares: Of the highest rate of the closed loops.
        seconds: Of each.
        progress: Is told what goes on.

    Raises:
        LoadTestError: Requests fail.
    """
    top = max(level.rate for level in profile.levels)
    node = Node.of(profile)
    tool = install()
    found = []
    for share in shares:
        rate = share * top
        progress(f"{rate:.0f} requests a second")
        plan = Plan(
            model=profile.setting.model,
            url=url,
            kind="poisson",
            levels=(rate,),
            duration_s=seconds,
            warm_up_s=2.0,
            length_mix=profile.setting.length_mix,
        )
        others = Others()
        done = run(plan, watch=watch, tool=tool)
        taken = others.cpus(done)
        point = done.points[0]
        if point.latency is None:
            continue
        latency, _, _, batch = simulate(node, rate, _REQUESTS, seed=1)
        batches = [sample.batch for sample in done.samples if sample.batch]
        found.append(
            Comparison(
                share=share,
                rate=rate,
                predicted_p50_s=weighted_quantile(latency, WEIGHTS, 0.5),
                predicted_p99_s=weighted_quantile(latency, WEIGHTS, 0.99),
                predicted_batch=batch,
                p50_s=point.latency.p50 / 1e3,
                p99_s=point.latency.p99 / 1e3,
                batch=sum(batches) / len(batches) if batches else None,
                steady=bool(point.stable),
                answered=point.requests_per_second,
                others=taken,
            )
        )
    return found
