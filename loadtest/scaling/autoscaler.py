"""The HorizontalPodAutoscaler's arithmetic, and KEDA's: how many replicas they want, and when they get them.

Follows ``pkg/controller/podautoscaler`` of Kubernetes (``replica_calculator.go`` and ``horizontal.go``): the
tolerance, pods without metrics, the stabilization windows, and the policies of ``behavior``. KEDA gives the
same controller an external metric, and itself only switches between 0 and 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

MetricKind = Literal["cpu", "pending", "rate"]


@dataclass(frozen=True)
class Policy:
    """How much may change in how long: so many pods, or percent of those there were."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True)
class Behavior:
    """One direction.

    Attributes:
        stabilization_s: Up: the lowest that was wanted in so long; down: the highest.
        policies: The one that allows most decides.
    """

    stabilization_s: int
    policies: tuple[Policy, ...]


@dataclass(frozen=True)
class Metric:
    """What is looked at.

    Attributes:
        kind: ``cpu``: share of the requested cores; ``pending``: requests that wait in Triton's queues;
            ``rate``: requests a second.
        target: Of one pod, on average.
        external: Added up over all pods and asked for as ``AverageValue``, as KEDA does; otherwise a pod
            that is not ready yet counts as Kubernetes says.
    """

    kind: MetricKind
    target: float
    external: bool = False


UP = Behavior(0, (Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DOWN = Behavior(300, (Policy("Percent", 100, 15),))
"""Kubernetes' defaults."""


@dataclass(frozen=True)
class Seen:
    """What a metric says of the ready pods.

    Attributes:
        ready: Pods that serve.
        starting: Pods that do not yet.
        total: Of the metric, over the ready pods.
    """

    ready: int
    starting: int
    total: float

    @property
    def replicas(self) -> int:
        """All of them."""
        return self.ready + self.starting


def wanted(metric: Metric, seen: Seen, tolerance: float = 0.1) -> int:
    """How many replicas one metric asks for.

    Args:
        metric: Its target.
        seen: What there is.
        tolerance: Change that is too small to act on.
    """
    current = seen.replicas
    if metric.external:
        if current and abs(1 - seen.total / (metric.target * current)) <= tolerance:
            return current
        return math.ceil(seen.total / metric.target - 1e-9)
    if not seen.ready:
        return current  # no metrics: the controller does nothing
    ratio = seen.total / seen.ready / metric.target
    if not seen.starting or ratio == 1 or (ratio < 1 and metric.kind == "cpu"):
        # On the way down a pod that is not ready is left out of CPU's average.
        if abs(1 - ratio) <= tolerance:
            return current
        found = math.ceil(ratio * seen.ready - 1e-9)
        return min(found, current) if ratio < 1 else found
    # A pod without metrics counts as idle on the way up, and as at its target on the way down.
    filled = seen.total + (0.0 if ratio > 1 else metric.target * seen.starting)
    again = filled / current / metric.target
    if abs(1 - again) <= tolerance or (ratio < 1) != (again < 1):
        return current
    found = math.ceil(again * current - 1e-9)
    return current if (again < 1) == (found > current) and found != current else found


@dataclass
class Autoscaler:
    """One HorizontalPodAutoscaler.

    Attributes:
        metrics: The one that asks for most decides.
        least: Replicas at least; 0 wants KEDA, or a serverless platform.
        most: Replicas at most.
        up: Behaviour upwards.
        down: Behaviour downwards.
        sync_s: From one decision to the next.
        tolerance: Change that is too small to act on.
        cooldown_s: KEDA: idle for so long before the last replica goes.
    """

    metrics: tuple[Metric, ...]
    least: int = 1
    most: int = 100
    up: Behavior = UP
    down: Behavior = DOWN
    sync_s: float = 15.0
    tolerance: float = 0.1
    cooldown_s: float = 300.0
    _recommendations: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)
    _active_at: float = 0.0

    def decide(self, now: float, seen: dict[MetricKind, Seen], *, active: bool = True) -> int:
        """How many replicas there shall be from now on.

        Args:
            now: Seconds.
            seen: Each kind of metric that is looked at.
            active: Whether there are requests at all, which is what KEDA wakes up and goes to sleep by.
        """
        current = next(iter(seen.values())).replicas
        if active:
            self._active_at = now
        if self.least == 0:
            if current == 0:
                return self._set(now, 0, 1 if active else 0)
            if not active and now - self._active_at >= self.cooldown_s:
                return self._set(now, current, 0)
        asked = max(wanted(metric, seen[metric.kind], self.tolerance) for metric in self.metrics)
        allowed = self._limit(now, current, self._stabilize(now, current, asked))
        return self._set(now, current, min(max(allowed, max(1, self.least)), self.most))

    def _stabilize(self, now: float, current: int, asked: int) -> int:
        """Only what was wanted throughout the window of its direction."""
        window = max(self.up.stabilization_s, self.down.stabilization_s)
        self._recommendations = [(at, value) for at, value in self._recommendations if now - at < window]
        lowest = highest = asked
        for at, value in self._recommendations:
            if now - at < self.up.stabilization_s:
                lowest = min(lowest, value)
            if now - at < self.down.stabilization_s:
                highest = max(highest, value)
        self._recommendations.append((now, asked))
        return max(min(current, highest), lowest)

    def _limit(self, now: float, current: int, asked: int) -> int:
        """No more than the policies allow."""
        if asked > current:
            bounds = [self._bound(now, current, policy, 1) for policy in self.up.policies]
            # Scaled up beyond it by hand, or by a policy that has changed: it stays.
            return min(asked, max(max(bounds), current))
        if asked < current:
            bounds = [self._bound(now, current, policy, -1) for policy in self.down.policies]
            return max(asked, min(min(bounds), current))
        return asked

    def _bound(self, now: float, current: int, policy: Policy, sign: int) -> int:
        recent = [change for at, change in self._changes if now - at < policy.period_s]
        before = current - sum(recent)
        if policy.kind == "Pods":
            return before + sign * policy.value
        share = 1 + sign * policy.value / 100
        return math.ceil(before * share - 1e-9) if sign > 0 else math.floor(before * share)

    def _set(self, now: float, current: int, target: int) -> int:
        longest = max(policy.period_s for policy in (*self.up.policies, *self.down.policies))
        self._changes = [(at, change) for at, change in self._changes if now - at < longest]
        if target != current:
            self._changes.append((now, target - current))
        return target
