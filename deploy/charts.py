"""The Helm chart as data: its files, and what it renders to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.helm_process import HelmError, render_files
from tritonforge.errors import TritonForgeError

CHART = Path(__file__).parent / "helm" / "tritonforge"
# Values with which tests and continuous integration render the chart: nothing for who installs it.
_NOT_SHIPPED = "ci"

# Renders are read seven times a deployment; the library's own parser takes six times as long.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Manifest = dict[str, Any]


class ChartError(TritonForgeError):
    """Values that the chart does not take."""


def chart_files() -> dict[str, str]:
    """Every file of the chart, by its path within it."""
    return {
        path.relative_to(CHART).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(CHART.rglob("*"))
        if path.is_file() and path.relative_to(CHART).parts[0] != _NOT_SHIPPED
    }


def render_chart(values: Mapping[str, Any], release: str, namespace: str) -> tuple[Manifest, ...]:
    """What the chart installs with some values; no cluster is asked, and test hooks are left out.

    Args:
        values: Over the chart's own.
        release: Name of the release.
        namespace: Where it is installed.

    Raises:
        UsageError: Helm's library is not installed.
        ChartError: The chart refuses the values.
    """
    try:
        files = render_files(CHART, values, release, namespace)
    except HelmError as error:
        raise ChartError(
            f"the chart refuses these values: {error}",
            where=str(CHART),
            mend="values.yaml in the chart says what each value means",
        ) from error
    return tuple(
        manifest
        for path, text in sorted(files.items())
        if path.endswith(".yaml")
        for manifest in _manifests(text)
        if "helm.sh/hook" not in manifest["metadata"].get("annotations", {})
    )


def _manifests(text: str) -> Iterator[Manifest]:
    yield from (document for document in yaml.load_all(text, Loader=_LOADER) if document)
