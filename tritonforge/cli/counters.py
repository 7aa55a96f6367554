"""Figures from the server's Prometheus endpoint, for what the demos show."""

from __future__ import annotations

import httpx


def metrics_page(url: str) -> str:
    """What the endpoint says now, in Prometheus' text format.

    Raises:
        httpx.HTTPError: It does not answer, or not with success.
    """
    return httpx.get(url, timeout=30.0, trust_env=False).raise_for_status().text


def total(page: str, metric: str, model: str | None = None) -> float:
    """A metric that has labels, summed over all of them, or over those of one model."""
    lines = (line for line in page.splitlines() if line.startswith(f"{metric}{{"))
    wanted = "" if model is None else f'model="{model}"'
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if wanted in line)
