"""How figures are written for people; also the filters of the page templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

ABSENT = "\N{EN DASH}"
_LONGEST_TEXT = 400  # characters of an example; more tells no more


def cosine(value: float | None) -> str:
    """A cosine with as many digits as tell it from 1: 0.9972, 0.999964; six at most, never rounded up."""
    if value is None or not math.isfinite(value):
        return number(value)
    if value >= 1 - 1e-9:  # as close as two ways to add up the same row
        return "1"
    digits = min(6, max(4, math.ceil(-math.log10(1 - value)) + 1))
    return f"{math.floor(value * 10**digits + 1e-6) / 10**digits:.{digits}f}"


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; a dash for None, words for NaN and infinity."""
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite"
    if value == 0 or isinstance(value, int):
        return f"{value:,.0f}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}"


def figure(value: Any) -> str:
    """Any figure of a step, as short as it can be said."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return cosine(value) if 0.9 < value < 1 else number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {figure(inner)}" for key, inner in value.items()) or ABSENT
    if isinstance(value, list | tuple):
        return ", ".join(figure(inner) for inner in value) or ABSENT
    text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text):,} characters)"


def percent(value: float | None) -> str:
    """A share in percent."""
    return ABSENT if value is None else f"{100 * value:.1f}%"


def times(value: float | None) -> str:
    """A ratio, with a sign of multiplication."""
    return ABSENT if value is None else f"{value:.2f}\N{MULTIPLICATION SIGN}"


def megabytes(value: float | None) -> str:
    """Bytes as MB."""
    return ABSENT if value is None else f"{value / 1e6:.1f}"


def seconds(value: float) -> str:
    """A duration: milliseconds matter below a minute only."""
    return f"{value:.2f} s" if value < 60 else f"{value // 60:.0f} min {value % 60:.0f} s"


def label(key: str) -> str:
    """A key as a heading."""
    return key.replace("_", " ")


FILTERS: dict[str, Callable[[Any], str]] = {
    made.__name__: made for made in (cosine, number, figure, percent, times, megabytes, seconds, label)
}
