"""Autoscalers by name: ``cpu:0.7``, ``pending:8``, ``rate:150``; KEDA's begin with ``keda-``; ``+`` joins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from loadtest.scaling.autoscaler import DOWN, UP, Autoscaler, Behavior, Metric, MetricKind, Policy
from tritonforge.errors import UsageError

FORMS = "fixed:REPLICAS, cpu:SHARE, pending:REQUESTS, rate:PER_SECOND, keda-pending:…, keda-rate:…, + joins"


@dataclass(frozen=True)
class Bounds:
    """What all autoscalers of a comparison share.

    Attributes:
        least: Replicas at least.
        most: Replicas at most.
        up: Behaviour upwards.
        down: Behaviour downwards.
    """

    least: int = 1
    most: int = 1000
    up: Behavior = UP
    down: Behavior = DOWN


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
        up=bounds.up,
        down=bounds.down,
    )


def read_behavior(file: Path) -> tuple[Behavior, Behavior]:
    """Read how fast it may go up and down.

    Args:
        file: A HorizontalPodAutoscaler, or values of the chart; what it does not say is Kubernetes' default.

    Raises:
        UsageError: It has no ``behavior``, or not of this form.
    """
    mend = "name a HorizontalPodAutoscaler, or values with server.autoscaling.behavior"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = content.get("spec", content.get("server", {}).get("autoscaling", {}))["behavior"]
        return _direction(found.get("scaleUp", {}), UP), _direction(found.get("scaleDown", {}), DOWN)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"has no behavior: {error!r}", where=str(file), mend=mend) from error


def _direction(found: dict[str, Any], default: Behavior) -> Behavior:
    policies = tuple(
        Policy(
            "Pods" if each["type"] == "Pods" else "Percent", int(each["value"]), int(each["periodSeconds"])
        )
        for each in found.get("policies", ())
    )
    if found.get("selectPolicy", "Max") != "Max":
        raise ValueError(f"selectPolicy {found['selectPolicy']} is not simulated")
    seconds = int(found.get("stabilizationWindowSeconds", default.stabilization_s))
    return Behavior(seconds, policies or default.policies)


def _unknown(form: str) -> UsageError:
    return UsageError(f"there is no autoscaler {form!r}", where="--scaler", mend=f"one of {FORMS}")
