"""Custom metrics of the backends, counted in the process and handed to Triton in the background.

Each increment is a message to the server process (15 us measured), and an execution moves a dozen
counters, so counting inline would cost a small model several percent. :class:`Meters` adds up
plain numbers and a thread passes them on a few times a second, far more often than anything
scrapes them. Triton itself keeps one metric per name and label set, so several instances of a
model, and the old and the new version during a reload, count into the same one, and a model that
is loaded anew goes on counting where it was.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from .stub_process import cpu_seconds, resident_bytes, start_time

INTERVAL = 0.2
"""Seconds between two hand-overs."""
STUB_EVERY = 25
"""Hand-overs between two looks at the own process: 5 s."""

BUSY = "tritonforge_busy_seconds_total"
STUB_RESTARTS = "tritonforge_stub_restarts_total"
STUB_START = "tritonforge_stub_start_time_seconds"
STUB_MEMORY = "tritonforge_stub_resident_memory_bytes"
STUB_CPU = "tritonforge_stub_cpu_seconds_total"

RELOAD_PARAMETER = "tritonforge_reload"
"""What the watchdog of `tritonforge serve` adds to the configuration of a model whose stub died."""


class Metric(Protocol):
    """What is used of ``pb_utils.Metric``."""

    def increment(self, value: float) -> None:
        """Add to the metric."""
        ...

    def set(self, value: float) -> None:
        """Set a gauge."""
        ...

    def observe(self, value: float) -> None:
        """Put a value into a histogram."""
        ...


class Registry:
    """Creates the metrics of one model; keeps the families, as a dropped family is unregistered.

    Args:
        pb_utils: The module ``triton_python_backend_utils`` as the stub provides it.
        args: What Triton gives ``initialize``; every metric is labelled by ``model`` and ``version``.

    Attributes:
        metrics: By their keys.
        bounds: Of the tallies, by name.
        restarted: Whether this stub replaces one that died.
    """

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        """Create what every stub has."""
        self._pb_utils = pb_utils
        self._labels = {"model": args["model_name"], "version": args["model_version"]}
        self._families: list[Any] = []
        self.metrics: dict[str, Metric] = {}
        self.bounds: dict[str, tuple[float, ...]] = {}
        self.restarted = RELOAD_PARAMETER in json.loads(args["model_config"]).get("parameters", {})
        self.counter(STUB_RESTARTS, "Loads of the model because its stub died")
        own = {"model_instance": args["model_instance_name"]}
        self.gauge(
            STUB_START, "When the stub process was started, seconds since 1970; 0 once it has ended", own
        )
        self.gauge(STUB_MEMORY, "Resident memory of the stub process", own)
        self.counter(STUB_CPU, "CPU time of the stub process, all its threads", own)

    def counter(self, name: str, description: str, labels: Mapping[str, str] | None = None) -> None:
        """Create one counter; its key is ``name``."""
        family = self._family(name, description)
        self.metrics[name] = family.Metric(labels={**self._labels, **(labels or {})})

    def labelled(self, name: str, description: str, label: str, values: Mapping[str, str]) -> None:
        """Create one counter per value of a label.

        Args:
            name: Name of the metric family.
            description: Help text of the family.
            label: Name of the label.
            values: Label values, each with the key for :meth:`Meters.add`.
        """
        family = self._family(name, description)
        for value, key in values.items():
            self.metrics[key] = family.Metric(labels={**self._labels, label: value})

    def gauge(self, name: str, description: str, labels: Mapping[str, str] | None = None) -> None:
        """Create one gauge; its key is ``name``."""
        family = self._family(name, description, "GAUGE")
        self.metrics[name] = family.Metric(labels={**self._labels, **(labels or {})})

    def histogram(self, name: str, description: str, bounds: Sequence[float]) -> None:
        """Create one histogram; its key is ``name``. Each value will be a message to the server.

        Args:
            name: Name of the metric family.
            description: Help text of the family.
            bounds: Upper bounds of the buckets, ascending, without the infinite one.
        """
        family = self._family(name, description, "HISTOGRAM")
        self.metrics[name] = family.Metric(labels=self._labels, buckets=list(bounds))

    def tally(self, name: str, description: str, bounds: Sequence[float]) -> None:
        """Create a histogram of counters, for what is observed so often that each bucket is told in sum.

        To Prometheus it is a histogram like others, only its type line says counter.

        Args:
            name: Of the histogram; also the key for :meth:`Meters.add`.
            description: Help text.
            bounds: Upper bounds of the buckets, ascending, without the infinite one.
        """
        self.bounds[name] = tuple(bounds)
        labels = [*map(str, bounds), "+Inf"]
        self.labelled(f"{name}_bucket", description, "le", {le: _bucket(name, le) for le in labels})
        self.counter(f"{name}_sum", description)
        self.counter(f"{name}_count", description)

    def _family(self, name: str, description: str, kind: str = "COUNTER") -> Any:
        family = self._pb_utils.MetricFamily(
            name=name, description=description, kind=getattr(self._pb_utils.MetricFamily, kind)
        )
        self._families.append(family)
        return family


class Meters:
    """Metrics that cost the hot path an addition.

    Args:
        registry: Has created them; kept, so that their families stay.
        interval: Seconds between two hand-overs.
    """

    def __init__(self, registry: Registry, interval: float = INTERVAL) -> None:
        """Start the thread that hands the numbers over."""
        self._registry = registry
        self._metrics = registry.metrics
        self._pending: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._observed: dict[str, list[float]] = {}
        self._started = start_time()
        self._cpu_seconds = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._interval = interval
        if registry.restarted:
            self._pending[STUB_RESTARTS] = 1
        self._thread = threading.Thread(target=self._hand_over, name="metrics", daemon=True)
        self._thread.start()

    def add(
        self, amounts: Mapping[str, float], observed: Mapping[str, Iterable[float]] | None = None
    ) -> None:
        """Count.

        Args:
            amounts: Non-negative, by the counter's key.
            observed: Values, by the name of their histogram.
        """
        with self._lock:
            self._pending.update(amounts)
            for name, values in (observed or {}).items():
                self._observed.setdefault(name, []).extend(values)

    def set(self, name: str, value: float) -> None:
        """Set a gauge; only the last value before a hand-over is seen."""
        with self._lock:
            self._gauges[name] = value

    def observe(self, name: str, value: float) -> None:
        """Put a value into a histogram."""
        with self._lock:
            self._observed.setdefault(name, []).append(value)

    def close(self) -> None:
        """Hand over what is left and stop the thread; Triton goes on showing what it was told last."""
        self._stop.set()
        self._thread.join()
        self._look_at_stub()
        self.set(STUB_START, 0)
        self.set(STUB_MEMORY, 0)
        self._flush()

    def _hand_over(self) -> None:
        turn = 0
        while not self._stop.wait(self._interval):
            if turn % STUB_EVERY == 0:
                self._look_at_stub()
            turn += 1
            self._flush()

    def _look_at_stub(self) -> None:
        """Measure the process.

        Its start is told again and again: during a reload the old stub, which ends, tells zeros last.
        """
        now = cpu_seconds()
        self.add({STUB_CPU: now - self._cpu_seconds})
        self._cpu_seconds = now
        self.set(STUB_START, self._started)
        self.set(STUB_MEMORY, resident_bytes())

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, Counter()
            gauges, self._gauges = self._gauges, {}
            observed, self._observed = self._observed, {}
        for name, values in observed.items():
            bounds = self._registry.bounds.get(name)
            if bounds is None:
                for value in values:
                    self._metrics[name].observe(value)
            else:
                pending.update(_tallied(name, bounds, values))
        for name, amount in pending.items():
            if amount:
                self._metrics[name].increment(amount)
        for name, value in gauges.items():
            self._metrics[name].set(value)


def _bucket(name: str, le: str) -> str:
    return f"{name}_bucket:{le}"


def _tallied(name: str, bounds: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """What values add to the counters of a tally; buckets are cumulative, as Prometheus wants it."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    labels = (*map(str, bounds), "+Inf")
    buckets = {_bucket(name, le): total for le, total in zip(labels, accumulate(counts), strict=True)}
    return {**buckets, f"{name}_sum": sum(values), f"{name}_count": len(values)}
