"""Custom metrics of the backends, counted in the process and handed to Triton in the background.

Each increment is a message to the server process (15 us measured), and an execution moves a dozen
counters, so counting inline would cost a small model several percent. :class:`Counters` adds up
plain numbers and a thread passes them on a few times a second, far more often than anything
scrapes them. Triton itself keeps one metric per name and label set, so several instances of a
model, and the old and the new version during a reload, count into the same one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

INTERVAL = 0.2
"""Seconds between two hand-overs."""


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


class Counters:
    """Counters that cost the hot path an addition.

    Args:
        metrics: The metric behind each counter, by the names that :meth:`add` takes.
        interval: Seconds between two hand-overs.
    """

    def __init__(self, metrics: Mapping[str, Metric], interval: float = INTERVAL) -> None:
        """Start the thread that hands the numbers over."""
        self._metrics = metrics
        self._pending: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._interval = interval
        self._thread = threading.Thread(target=self._hand_over, name="metrics", daemon=True)
        self._thread.start()

    def add(self, amounts: Mapping[str, int]) -> None:
        """Count; ``amounts`` are non-negative, by counter name."""
        with self._lock:
            self._pending.update(amounts)

    def close(self) -> None:
        """Hand over what is left and stop the thread."""
        self._stop.set()
        self._thread.join()
        self._flush()

    def _hand_over(self) -> None:
        while not self._stop.wait(self._interval):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, Counter()
        for name, amount in pending.items():
            if amount:
                self._metrics[name].increment(amount)


class Meters(Counters):
    """Counters with gauges and histograms beside them, handed over the same way.

    Args:
        registry: Has created them; kept, so that their families stay.
        interval: Seconds between two hand-overs.
    """

    def __init__(self, registry: Registry, interval: float = INTERVAL) -> None:
        """Start the thread that hands the numbers over."""
        self._registry = registry
        self._gauges: dict[str, float] = {}
        self._observed: list[tuple[str, float]] = []
        super().__init__(registry.metrics, interval)

    def set(self, name: str, value: float) -> None:
        """Set a gauge; only the last value before a hand-over is seen."""
        with self._lock:
            self._gauges[name] = value

    def observe(self, name: str, value: float) -> None:
        """Put a value into a histogram."""
        with self._lock:
            self._observed.append((name, value))

    def _flush(self) -> None:
        super()._flush()
        with self._lock:
            gauges, self._gauges = self._gauges, {}
            observed, self._observed = self._observed, []
        for name, value in gauges.items():
            self._metrics[name].set(value)
        for name, value in observed:
            self._metrics[name].observe(value)


class Registry:
    """Creates the metrics of one model; keeps the families, as a dropped family is unregistered.

    Args:
        pb_utils: The module ``triton_python_backend_utils`` as the stub provides it.
        labels: Labels that every metric carries.
    """

    def __init__(self, pb_utils: Any, labels: Mapping[str, str]) -> None:
        """Create nothing yet."""
        self._pb_utils = pb_utils
        self._labels = dict(labels)
        self._families: list[Any] = []
        self.metrics: dict[str, Metric] = {}

    def counter(self, name: str, description: str) -> None:
        """Create one counter; its key is ``name``."""
        self.metrics[name] = self._family(name, description).Metric(labels=self._labels)

    def labelled(self, name: str, description: str, label: str, values: Mapping[str, str]) -> None:
        """Create one counter per value of a label.

        Args:
            name: Name of the metric family.
            description: Help text of the family.
            label: Name of the label.
            values: Label values, each with the key for :meth:`Counters.add`.
        """
        family = self._family(name, description)
        for value, key in values.items():
            self.metrics[key] = family.Metric(labels={**self._labels, label: value})

    def gauge(self, name: str, description: str) -> None:
        """Create one gauge; its key is ``name``."""
        self.metrics[name] = self._family(name, description, "GAUGE").Metric(labels=self._labels)

    def histogram(self, name: str, description: str, bounds: Sequence[float]) -> None:
        """Create one histogram; its key is ``name``.

        Args:
            name: Name of the metric family.
            description: Help text of the family.
            bounds: Upper bounds of the buckets, ascending, without the infinite one.
        """
        family = self._family(name, description, "HISTOGRAM")
        self.metrics[name] = family.Metric(labels=self._labels, buckets=list(bounds))

    def _family(self, name: str, description: str, kind: str = "COUNTER") -> Any:
        family = self._pb_utils.MetricFamily(
            name=name, description=description, kind=getattr(self._pb_utils.MetricFamily, kind)
        )
        self._families.append(family)
        return family
