"""The clusters that never change: the facade's processes, and Envoy's own admin interface."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy.pools import seconds
from gateway.envoy.typed import endpoint, pipe, typed
from gateway.paths import RunPaths

FACADE_HTTP = "facade/http"
FACADE_GRPC = "facade/grpc"
ADMIN = "admin"

_HTTP_OPTIONS = "extensions.upstreams.http.v3.HttpProtocolOptions"
_IDLE_S = 4.0
"""uvicorn closes an idle connection after 5 s; Envoy must be first, or a request may meet the end of one."""


def static_clusters(config: GatewayConfig, paths: RunPaths) -> list[dict[str, Any]]:
    """Clusters on the run folder's Unix sockets."""
    workers = range(config.facade.workers)
    http1 = {
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": seconds(_IDLE_S)},
    }
    http2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
    return [
        _cluster(FACADE_HTTP, [paths.facade_http(worker) for worker in workers], config, http1),
        _cluster(FACADE_GRPC, [paths.facade_grpc(worker) for worker in workers], config, http2),
        _cluster(ADMIN, [paths.admin], config, http1),
    ]


def _cluster(
    name: str, sockets: Iterable[Path], config: GatewayConfig, options: dict[str, Any]
) -> dict[str, Any]:
    # A streamed answer or a WebSocket is one connection to the facade: as many as there may be at the door.
    most = max(1024, config.limits.max_connections)
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": seconds(config.resilience.connect_timeout_s),
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": most,
                    "max_pending_requests": most,
                    "max_requests": most,
                    "max_retries": 32,
                }
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint(pipe(socket)) for socket in sockets]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(_HTTP_OPTIONS, **options)
        },
    }
