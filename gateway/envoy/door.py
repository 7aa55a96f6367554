"""The public listener: one port for HTTP/1.1, HTTP/2, WebSocket and gRPC."""

from __future__ import annotations

from typing import Any

from gateway.config import GatewayConfig
from gateway.config.schema import Listen
from gateway.envoy import tls
from gateway.envoy.filters import CORS, http_filters
from gateway.envoy.local_replies import local_reply_config
from gateway.envoy.logs import access_log, keep_callers_id, pass_request_id
from gateway.envoy.pools import seconds
from gateway.envoy.routes import routes
from gateway.envoy.tracing import CONTEXT_HEADERS, drops_context, tracing
from gateway.envoy.typed import extension, socket_address, typed
from gateway.paths import RunPaths

STAT_PREFIX = "door"
_MANAGER = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_BUFFER = 256 << 10
"""Bytes held of one connection, beyond which its sender has to wait."""
_WINDOW = 64 << 10
_STREAMS = 128
_PING_S, _PONG_S = 30.0, 10.0
_DRAIN_S = 1.0
"""How long a connection that is to end still takes requests: they may be under way already."""


def door_listener(config: GatewayConfig, paths: RunPaths) -> dict[str, Any]:
    """Where callers come in."""
    listen = config.listen
    chain: dict[str, Any] = {
        "filters": [
            extension(
                "envoy.filters.network.connection_limit",
                "extensions.filters.network.connection_limit.v3.ConnectionLimit",
                stat_prefix=STAT_PREFIX,
                max_connections=config.limits.max_connections,
            ),
            extension("envoy.filters.network.http_connection_manager", _MANAGER, **_manager(config, paths)),
        ]
    }
    if listen.tls is not None:
        chain["transport_socket"] = tls.transport_socket(listen.tls, paths)
        chain["transport_socket_connect_timeout"] = seconds(listen.headers_timeout_s)
    return {
        "name": STAT_PREFIX,
        "address": socket_address(listen.host, listen.port),
        "traffic_direction": "INBOUND",  # what `drain_listeners?inboundonly` means
        "socket_options": _keepalive(),
        "per_connection_buffer_limit_bytes": _BUFFER,
        "filter_chains": [chain],
    }


def _manager(config: GatewayConfig, paths: RunPaths) -> dict[str, Any]:
    listen = config.listen
    host: dict[str, Any] = {"name": STAT_PREFIX, "domains": ["*"], "routes": routes(config)}
    if listen.allow_origins:
        host["typed_per_filter_config"] = {CORS: _cors(listen)}
    return {
        "stat_prefix": STAT_PREFIX,
        "codec_type": "AUTO",
        "route_config": {
            "name": STAT_PREFIX,
            "virtual_hosts": [host],
            "validate_clusters": False,  # those of the pools come by CDS
            "request_headers_to_add": pass_request_id(),
            "response_headers_to_remove": ["server"],
        },
        "http_filters": http_filters(config, paths),
        "local_reply_config": local_reply_config(config),
        "access_log": access_log(config),
        "server_header_transformation": "PASS_THROUGH",
        # Who calls.
        "use_remote_address": True,
        "xff_num_trusted_hops": listen.trusted_hops,
        "internal_address_config": {"cidr_ranges": []},
        "generate_request_id": True,
        "early_header_mutation_extensions": [_strip(config)],
        **tracing(config, paths),
        # One spelling of each path, before anything looks at it.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # How long anything may take.
        "request_headers_timeout": seconds(listen.headers_timeout_s),
        "stream_idle_timeout": seconds(config.resilience.stream_idle_timeout_s),
        "drain_timeout": seconds(_DRAIN_S),
        "common_http_protocol_options": {
            "idle_timeout": seconds(listen.idle_timeout_s),
            # `triton_grpc_error` is one: with it a caller can end a Triton older than 26.04 (server#8708).
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS,
            "initial_stream_window_size": _WINDOW,
            "initial_connection_window_size": 16 * _WINDOW,
            "connection_keepalive": {"interval": seconds(_PING_S), "timeout": seconds(_PONG_S)},
        },
        "upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}],  # but for its one route
    }


def _strip(config: GatewayConfig) -> dict[str, Any]:
    """What only the gateway itself may say is removed before anything reads it."""
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[
            *(
                {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}}
                for prefix in ("x-tritonforge-", "x-envoy-")
            ),
            *({"remove": name} for name in CONTEXT_HEADERS if drops_context(config)),
            *keep_callers_id(),
        ],
    )


def _keepalive() -> list[dict[str, Any]]:
    """Finds callers that are gone without a word: a probe after a minute of silence, four in all."""
    socket_level, tcp_level = 1, 6
    options = {
        "SO_KEEPALIVE": (socket_level, 9, 1),
        "TCP_KEEPIDLE": (tcp_level, 4, 60),
        "TCP_KEEPINTVL": (tcp_level, 5, 10),
        "TCP_KEEPCNT": (tcp_level, 6, 4),
        # The same for data that nobody acknowledges, milliseconds.
        "TCP_USER_TIMEOUT": (tcp_level, 18, 60_000),
    }
    return [
        {"description": name, "level": level, "name": number, "int_value": value, "state": "STATE_PREBIND"}
        for name, (level, number, value) in options.items()
    ]


def _cors(listen: Listen) -> dict[str, Any]:
    return typed(
        "extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": origin} for origin in listen.allow_origins],
        allow_methods="GET, POST, OPTIONS",
        # `*` is all but `authorization`; OpenAI's client in a page sends many of its own.
        allow_headers="authorization, *",
        expose_headers="*",
        max_age="600",
    )
