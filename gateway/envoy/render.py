"""``gateway.yaml`` as Envoy's bootstrap configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy import auth, tls, tracing
from gateway.envoy.admin import admin, metrics_listener, overload
from gateway.envoy.door import door_listener
from gateway.envoy.egress import egress_listener
from gateway.envoy.logs import application_log
from gateway.envoy.upstreams import static_clusters
from gateway.errors import GatewayConfigError
from gateway.files import write_private
from gateway.paths import RunPaths
from tritonforge.errors import first_line


def render(config: GatewayConfig, paths: RunPaths) -> dict[str, Any]:
    """All that does not change while a gateway runs, in proto3's JSON form.

    It holds no secret: those are in files of their own, which :func:`write` makes.

    Args:
        config: ``gateway.yaml``; its ports are those that Envoy listens on.
        paths: Where sockets and files are.

    Raises:
        GatewayConfigError: The configuration cannot be carried out.
    """
    return {
        "node": {"id": "tritonforge-gateway", "cluster": "tritonforge-gateway"},
        "admin": admin(paths),
        **application_log(config),
        "overload_manager": overload(config),
        # Shares of the overflow change while it runs, by way of the admin socket.
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "dynamic_resources": {
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(paths.clusters)},
            }
        },
        "static_resources": {
            "clusters": [
                *static_clusters(config, paths),
                *auth.jwks_clusters(config),
                *tracing.collector_cluster(config),
            ],
            "listeners": [
                door_listener(config, paths),
                egress_listener(config, paths),
                metrics_listener(config),
            ],
        },
    }


def write(config: GatewayConfig, paths: RunPaths) -> None:
    """Write the bootstrap and the files it names, for this user's eyes only.

    Raises:
        GatewayConfigError: The configuration cannot be carried out, or a file it names cannot be read.
    """
    auth.check_files(config)
    files = auth.secret_files(config, paths)
    if config.listen.tls is not None:
        _check_readable(config.listen.tls.certificate, config.listen.tls.key, config.listen.tls.client_ca)
        files |= tls.secret_files(config.listen.tls, paths)
    for path, value in tracing.secret_files(config, paths).items():
        write_private(path, value)
    # The bootstrap last: what it names is there.
    for path, content in {**files, paths.bootstrap: render(config, paths)}.items():
        write_private(path, json.dumps(content, indent=1))


def _check_readable(*names: str | None) -> None:
    for name in names:
        if name is None:
            continue
        try:
            Path(name).read_bytes()
        except OSError as error:
            raise GatewayConfigError(
                f"cannot be read: {first_line(error)}", where=name, mend="name a PEM file under listen.tls"
            ) from error
