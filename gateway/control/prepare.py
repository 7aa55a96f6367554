"""From a configuration to the files that Envoy reads; also to show or check it, without running anything."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy.binary import locate, validate
from gateway.envoy.clusters import pool_clusters, write_clusters
from gateway.envoy.render import render, write
from gateway.guards.check import check_guards
from gateway.paths import RunPaths
from gateway.tracing import check_tracing

_FOLDER = Path("/run/tritonforge-gateway")
"""Stands for the run folder, whose name is made when the gateway starts."""


def prepare(config: GatewayConfig, paths: RunPaths) -> Path:
    """Write everything that the processes read, and let Envoy judge it.

    Returns:
        Envoy's program.

    Raises:
        GatewayConfigError: The configuration cannot be carried out.
        GatewayError: Envoy is not there, or refuses it.
    """
    check_guards(config)
    check_tracing(config.tracing)
    envoy = locate(config)
    paths.config.write_text(config.model_dump_json(), encoding="utf-8")
    write_clusters(config, paths)
    write(config, paths)
    validate(envoy, paths.bootstrap)
    return envoy


def check(config: GatewayConfig) -> None:
    """Do all that a start does before the first process.

    Raises:
        GatewayError: As for :func:`prepare`.
    """
    with tempfile.TemporaryDirectory(prefix="tritonforge-gateway-") as folder:
        prepare(config, RunPaths(Path(folder)))


def shown(config: GatewayConfig) -> dict[str, Any]:
    """Envoy's bootstrap and the clusters of the pools; secrets are in files of their own, and not shown.

    Raises:
        GatewayConfigError: The configuration cannot be carried out.
    """
    return {"bootstrap": render(config, RunPaths(_FOLDER)), "clusters": pool_clusters(config)}
