"""The few shapes of PromQL that recur."""

from __future__ import annotations

INTERVAL = "$__rate_interval"
"""Grafana's: at least four scrapes, and as long as a point of the curve."""


def rate(metric: str, labels: str = "", *, by: str = "") -> str:
    """Growth of a counter a second, summed over all that ``by`` does not name."""
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} (rate({metric}{_braces(labels)}[{INTERVAL}]))"


def total(gauge: str, labels: str = "", *, by: str = "") -> str:
    """Sum of a gauge over all that ``by`` does not name."""
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} ({gauge}{_braces(labels)})"


def share(part: str, whole: str) -> str:
    """Quotient of two expressions of the same labels."""
    return f"{part} / {whole}"


def quantile(histogram: str, labels: str = "", *, by: str = "", q: str = "$percentile") -> str:
    """Quantile over all processes, from a histogram's name without ``_bucket``."""
    kept = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, by=kept)})"


def or_zero(expr: str, source: str) -> str:
    """Zero where an expression has no series yet, as long as their source is scraped.

    A counter with labels has no series before its first event, and what never happened is 0. A source that is
    away gives no data, not a calm line.

    Args:
        expr: The expression.
        source: A metric that the same source always has.
    """
    return f"{expr} or on () (0 * count({source}))"


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""
