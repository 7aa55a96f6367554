"""What is for operators only: Envoy's admin interface, and where Prometheus scrapes."""

from __future__ import annotations

from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy.pools import seconds
from gateway.envoy.typed import extension, pipe, socket_address
from gateway.envoy.upstreams import ADMIN, FACADE_HTTP
from gateway.paths import RunPaths

_SCRAPE_S = 10.0
_INNER_CONNECTIONS = 1024


def admin(paths: RunPaths) -> dict[str, Any]:
    """The admin interface, on a Unix socket of the run folder."""
    return {"address": pipe(paths.admin)}


def overload(config: GatewayConfig) -> dict[str, Any]:
    """The bound of all connections together: callers', and a few of the facade's and of Prometheus."""
    most = config.limits.max_connections + _INNER_CONNECTIONS
    monitor = extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=most,
    )
    return {"resource_monitors": [monitor]}


def metrics_listener(config: GatewayConfig) -> dict[str, Any]:
    """Two paths for Prometheus and nothing else."""
    metrics = config.metrics
    routes = [
        _route("/metrics", FACADE_HTTP, "/metrics"),
        _route("/metrics/envoy", ADMIN, "/stats/prometheus"),
    ]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="metrics",
        route_config={"virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": routes}]},
        http_filters=[extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
        request_timeout=seconds(_SCRAPE_S),
        server_header_transformation="PASS_THROUGH",
    )
    return {
        "name": "metrics",
        "address": socket_address(metrics.host, metrics.port),
        "filter_chains": [{"filters": [manager]}],
    }


def _route(path: str, cluster: str, becomes: str) -> dict[str, Any]:
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    return {
        "match": {"path": path, "headers": [get]},
        # The query goes too: admin's prints of statistics change nothing.
        "route": {"cluster": cluster, "regex_rewrite": _whole(becomes), "timeout": seconds(_SCRAPE_S)},
    }


def _whole(path: str) -> dict[str, Any]:
    return {"pattern": {"regex": "^/.*$"}, "substitution": path}
