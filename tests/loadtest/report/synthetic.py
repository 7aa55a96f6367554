"""Load tests whose truth is known: the M/M/1 queue, with windows that resemble their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.results import Latency, LoadRun, Machine, Point, Sample, Setting, Window

SERVICE_RATE = 100.0  # requests/s that the server of the M/M/1 queue can do
RATES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
TAILS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def mm1_latency(rate: float, service: float = SERVICE_RATE) -> Latency:
    """Times in an M/M/1 queue are exponential with mean 1 / (service rate - arrival rate)."""
    mean = 1e3 / (service - rate)
    return Latency(mean=mean, **{name: -mean * np.log(1 - share) for name, share in TAILS.items()})


def mm1_rate(percentile: float, limit: float, service: float = SERVICE_RATE) -> float:
    """The arrival rate at which a percentile is at its limit (ms): the true capacity."""
    return float(service + 1e3 * np.log(1 - percentile) / limit)


def mm1(rates: Sequence[float] = RATES, **options: Any) -> tuple[Point, ...]:
    """A sweep over arrival rates."""
    return tuple(
        point(rate, rate, mm1_latency(rate), kind="poisson", started=100.0 * at, **options)
        for at, rate in enumerate(rates)
    )


@dataclass(frozen=True)
class Noise:
    """How windows vary.

    Attributes:
        seed: Of chance.
        spread: Standard deviation of a window over its mean.
        correlation: Of a window with the next.
        windows: How many.
    """

    seed: int
    spread: float = 0.05
    correlation: float = 0.0
    windows: int = 12

    def draw(self, shape: int) -> Any:
        """Factors around 1, of shape [``shape``, windows]."""
        chance = np.random.default_rng(self.seed).standard_normal((shape, self.windows + 30))
        for at in range(1, chance.shape[1]):
            own = np.sqrt(1 - self.correlation**2) * chance[:, at]
            chance[:, at] = self.correlation * chance[:, at - 1] + own
        return np.maximum(0.05, 1 + self.spread * chance[:, 30:])


def point(
    level: float,
    rate: float,
    latency: Latency | None,
    *,
    kind: Any = "concurrency",
    noise: Noise | None = None,
    seconds: float = 60.0,
    **fields: Any,
) -> Point:
    """A point; with noise its figures are those of its windows."""
    windows: tuple[Window, ...] = ()
    if noise is not None and latency is not None:
        drawn = Noise(noise.seed * 1000 + int(level), noise.spread, noise.correlation, noise.windows).draw(3)
        long = seconds / noise.windows
        windows = tuple(
            Window(
                seconds=long,
                requests=round(rate * long * factors[0] * 1000),  # many, so that rounding is no noise
                p50=latency.p50 * factors[1],
                p99=latency.p99 * factors[2],
            )
            for factors in drawn.T
        )
        rate *= float(drawn[0].mean())
        middle, tail = (float(row.mean()) for row in drawn[1:])
        latency = Latency(
            mean=latency.mean * middle,
            p50=latency.p50 * middle,
            p90=latency.p90 * tail,
            p95=latency.p95 * tail,
            p99=latency.p99 * tail,
        )
        windows = tuple(w.model_copy(update={"requests": w.requests // 1000}) for w in windows)
    given = {"started": 0.0, "requests": round(rate * seconds), "items_per_second": rate} | fields
    return Point(
        kind=kind,
        level=level,
        seconds=seconds,
        requests_per_second=rate,
        latency=latency,
        windows=windows,
        **given,
    )


def run(
    points: Sequence[Point], name: str = "toy", samples: Sequence[Sample] = (), **setting: Any
) -> LoadRun:
    """A load test of these points."""
    given: dict[str, Any] = {
        "tool": "perf_analyzer",
        "tool_version": "2.60.0",
        "target": "triton-grpc",
        "url": "127.0.0.1:8001",
        "model": "toy",
        "task": "embedding",
        "engine": "openvino int8",
        "engine_threads": 2,
        "length_mix": "16:1",
        "corpus": "lee",
        "machine": Machine(cpu="a processor", cores=2, memory_bytes=8 << 30),
        "server": "2.51.0",
        "command": "tritonforge loadtest --model toy",
    } | setting
    return LoadRun(
        name=name, started=1e9, setting=Setting(**given), points=tuple(points), samples=tuple(samples)
    )
