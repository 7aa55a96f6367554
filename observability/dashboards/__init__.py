"""Grafana's dashboards as code; ``python -m observability.dashboards`` writes their JSON.

One module a dashboard, each with a function ``board``; :mod:`panels <observability.dashboards.panels>` and
:mod:`board <observability.dashboards.board>` hold what they share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from observability.dashboards import gateway, generation, gpu, model, overview
from observability.dashboards.board import Board

FOLDER = Path(__file__).parents[2] / "docker" / "grafana" / "dashboards"
"""Where the generated files are in a checkout."""

BOARDS: tuple[Callable[[], Board], ...] = (
    overview.board,
    model.board,
    gpu.board,
    gateway.board,
    generation.board,
)
