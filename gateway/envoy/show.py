"""Shows and checks what a configuration comes to, without running it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy import binary, clusters, render
from gateway.paths import RunPaths

_FOLDER = Path("/run/tritonforge-gateway")
"""Stands for the run folder, whose name is made when the gateway starts."""


def shown(config: GatewayConfig) -> dict[str, Any]:
    """Bootstrap and clusters, secrets masked.

    Raises:
        GatewayConfigError: The configuration cannot be carried out.
    """
    return {
        "bootstrap": render.masked(config, RunPaths(_FOLDER)),
        "clusters": clusters.pool_clusters(config),
    }


def check(config: GatewayConfig) -> None:
    """Let Envoy check what the configuration comes to.

    Raises:
        GatewayConfigError: The configuration cannot be carried out.
        GatewayError: Envoy is not there, or refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="tritonforge-gateway-") as folder:
        paths = RunPaths(Path(folder))
        clusters.write_clusters(config, paths)
        render.write(config, paths)
        binary.validate(binary.locate(config), paths.bootstrap)
