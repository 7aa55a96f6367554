"""The inner listener: the facade's KServe v2 gRPC calls, on a Unix socket in the gateway's private folder.

A header names the pool. Nobody is asked who they are: only this gateway's own processes can reach the socket.
"""

from __future__ import annotations

from typing import Any

from gateway.config import GatewayConfig
from gateway.config.pools import Pool
from gateway.envoy.pools import pool_action
from gateway.envoy.typed import extension, header, pipe, typed
from gateway.identity import POOL_HEADER, SERVER_HEADER
from gateway.paths import RunPaths

_SERVICE = "/inference.GRPCInferenceService/"
_STREAMS = 1 << 20
_BUFFER = 16 << 20


def egress_listener(config: GatewayConfig, paths: RunPaths) -> dict[str, Any]:
    """Envoy's ``Listener`` for calls from the facade.

    Args:
        config: ``gateway.yaml``.
        paths: ``egress`` is the socket.
    """
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _connection_manager(config),
    }
    return {
        "name": "egress",
        "address": pipe(paths.egress),
        "filter_chains": [{"filters": [manager]}],
    }


def _connection_manager(config: GatewayConfig) -> dict[str, Any]:
    pools = {
        "name": "pools",
        "domains": ["*"],
        # What fits may be sent again, when a server fails before it answers.
        "request_body_buffer_limit": max(_BUFFER, config.limits.max_body_bytes),
        "response_headers_to_add": [header(SERVER_HEADER, "%UPSTREAM_HOST%")],
        "routes": [*(route for pool in config.pools for route in _routes(config, pool)), _no_such_pool()],
    }
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="egress",
        codec_type="HTTP2",
        http2_protocol_options={"max_concurrent_streams": _STREAMS},
        internal_address_config={"unix_sockets": True},
        stream_idle_timeout="0s",  # routes have their own
        generate_request_id=False,
        http_filters=[extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
        route_config={
            "name": "egress",
            "validate_clusters": False,  # they come by CDS, after this
            "virtual_hosts": [pools],
        },
    )


def _routes(config: GatewayConfig, pool: Pool) -> list[dict[str, Any]]:
    names_it = [{"name": POOL_HEADER, "string_match": {"exact": pool.name}}]
    return [
        {
            "match": {**match, "headers": names_it},
            "route": pool_action(config, pool, "grpc", streams),
            "request_headers_to_remove": [POOL_HEADER],
        }
        for match, streams in (({"path": f"{_SERVICE}ModelStreamInfer"}, True), ({"prefix": "/"}, False))
    ]


def _no_such_pool() -> dict[str, Any]:
    body = {"inline_string": f"{POOL_HEADER} names no pool of this gateway"}
    return {"match": {"prefix": "/"}, "direct_response": {"status": 404, "body": body}}
