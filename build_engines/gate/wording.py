"""What was found, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from build_engines.gate.verdict import GateCheck


def describe_failure(check: GateCheck) -> str:
    """One failed check in words: name, figure, threshold, worst example."""
    text = check.name
    if check.figure is not None and check.threshold is not None:
        text += f" is {number(check.figure)}, the threshold is {number(check.threshold)}"
    if check.detail:
        text += f" ({check.detail})"
    if check.worst:
        text += f"; worst: {example(check.worst[0])}"
    return text


def example(fields: Mapping[str, Any]) -> str:
    """A worst example in words."""
    return ", ".join(
        f"{key} {number(value) if isinstance(value, float) else repr(value) if ' ' in str(value) else value}"
        for key, value in fields.items()
    )


def number(value: float) -> str:
    """A figure with as many digits as say something."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.1e}"
