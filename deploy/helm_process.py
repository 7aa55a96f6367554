"""Helm's library, in a process of its own.

It is Go, compiled to a C library, and Go's runtime starts when Python imports it. In a process that holds
torch, OpenVINO and gRPC that runtime was seen to end the whole process at its first call. So only a child
imports it: one for all calls, started by the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tritonforge.errors import UsageError


class HelmError(Exception):
    """What Helm said of a chart or its values."""


def render_files(chart: Path, values: Mapping[str, Any], release: str, namespace: str) -> dict[str, str]:
    """Render a chart as ``helm template`` does; no cluster is asked.

    Args:
        chart: Its folder.
        values: Over the chart's own.
        release: Name of the release.
        namespace: Where it is installed.

    Returns:
        Path within the chart to text.

    Raises:
        UsageError: Helm's library is not installed.
        HelmError: Helm refuses the chart or the values.
    """
    return _child().submit(_render, str(chart), dict(values), release, namespace).result()


def lint(chart: Path, values: Mapping[str, Any], kube_version: str) -> dict[str, Any]:
    """Check a chart as ``helm lint --strict`` does.

    Args:
        chart: Its folder.
        values: Over the chart's own.
        kube_version: Kubernetes' version, such as ``v1.28.0``.

    Returns:
        Helm's report, with ``errors`` and ``messages``.

    Raises:
        UsageError: Helm's library is not installed.
    """
    return _child().submit(_lint, str(chart), dict(values), kube_version).result()


@cache
def _child() -> ProcessPoolExecutor:
    if find_spec("helm_python") is None:
        raise UsageError("rendering the chart needs Helm's library", mend="pip install 'tritonforge[deploy]'")
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


def _render(path: str, values: dict[str, Any], release: str, namespace: str) -> dict[str, str]:
    import helm_python

    try:
        with helm_python.Chart.load(path) as chart:
            return chart.render(values, name=release, namespace=namespace)
    except helm_python.HelmError as error:
        raise HelmError(str(error)) from None


def _lint(path: str, values: dict[str, Any], kube_version: str) -> dict[str, Any]:
    import helm_python

    return helm_python.lint(path, values, strict=True, with_subcharts=True, kube_version=kube_version)
