"""Autoscalers by name: ``cpu:0.7``, ``pending:8``, ``rate:150``; KEDA's begin with ``keda-``; ``+`` joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from loadtest.scaling.autoscaler import DOWN, UP, Autoscaler, Behavior, Metric, MetricKind
from tritonforge.errors import UsageError

FORMS = "fixed:REPLICAS, cpu:SHARE, pending:REQUESTS, rate:PER_SECOND, keda-pending:…, keda-rate:…, + joins"


@dataclass(frozen=True)
class Bounds:
    """What all autoscalers of a comparison share.

    Attributes:
        least: Replicas at least.
        most: Replicas at most.
        up_stabilization_s: As in ``behavior.scaleUp``.
        down_stabilization_s: As in ``behavior.scaleDown``.
    """

    least: int = 1
    most: int = 1000
    up_stabilization_s: int = 0
    down_stabilization_s: int = 300


def make_scaler(form: str, bounds: Bounds) -> Autoscaler:
    """Make an autoscaler from its name.

    Args:
        form: As the module says.
        bounds: What is the same for all.

    Raises:
        UsageError: There is no such form.
    """
    metrics = []
    for part in form.split("+"):
        name, _, value = part.partition(":")
        external = name.startswith("keda-")
        kind = name.removeprefix("keda-")
        try:
            target = float(value)
        except ValueError:
            raise _unknown(form) from None
        if target <= 0:
            raise _unknown(form)
        if form == part and kind == "fixed" and target.is_integer():
            return Autoscaler((Metric("rate", 1e12),), least=int(target), most=int(target))
        known: tuple[MetricKind, ...] = get_args(MetricKind)
        found = next((each for each in known if each == kind), None)
        if found is None or (external and found == "cpu"):
            raise _unknown(form)
        metrics.append(Metric(found, target, external))
    if bounds.least == 0 and not all(metric.external for metric in metrics):
        raise UsageError(
            "a HorizontalPodAutoscaler alone never goes to 0 replicas",
            where="--least",
            mend="name KEDA's forms",
        )
    return Autoscaler(
        tuple(metrics),
        least=bounds.least,
        most=bounds.most,
        up=Behavior(bounds.up_stabilization_s, UP.policies),
        down=Behavior(bounds.down_stabilization_s, DOWN.policies),
    )


def _unknown(form: str) -> UsageError:
    return UsageError(f"there is no autoscaler {form!r}", where="--scaler", mend=f"one of {FORMS}")
