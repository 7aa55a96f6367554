"""NVIDIA's perf_analyzer: :func:`run` loads a model as a :class:`Plan` says, level by level.

::

    run(Plan(model="minilm", url="localhost:8001", levels=(1, 16, 64)), server=Watch(metrics_url=...))
"""

from loadtest.perf_analyzer.plan import Form, Plan
from loadtest.perf_analyzer.runner import run

__all__ = ["Form", "Plan", "run"]
