"""The pools as Envoy's clusters.

The servers of a pool in one region are a cluster for each protocol. Over these lies a cluster of clusters
(``envoy.clusters.aggregate``) that lists the regions by preference: Envoy takes the first whose servers are
healthy. Envoy watches the file of all this (CDS), and a new order of regions changes only the upper layer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.config import GatewayConfig
from gateway.config.pools import Pool, Region
from gateway.config.resilience import Resilience
from gateway.envoy.endpoints import endpoints, transport_socket
from gateway.envoy.pools import (
    PROTOCOLS,
    Protocol,
    home_cluster,
    overflow_cluster,
    pool_action,
    region_cluster,
    seconds,
)
from gateway.envoy.typed import extension, typed
from gateway.files import write_private
from gateway.paths import RunPaths

__all__ = ["pool_action", "pool_clusters", "write_clusters"]

Order = Mapping[str, Sequence[str]]
"""Names of the home regions of each pool, the preferred one first; a pool left out keeps its file's order."""

_READY_PATH = "/v2/health/ready"
# Drawn with replacement: with two servers and two draws, a slow one would get every fourth request.
_DRAWN = 4
# A connection carries so many requests at once before another is opened: gRPC's usual bound, by which a
# server's threads share the work of many connections.
_STREAMS = 100
_IDLE_S = 60
# What is sent and not acknowledged for so long was sent to a place that is cut off.
_UNACKNOWLEDGED_MS = 10_000
_HTTP_OPTIONS = "extensions.upstreams.http.v3.HttpProtocolOptions"
_TCP, _TCP_USER_TIMEOUT = 6, 18


def write_clusters(config: GatewayConfig, paths: RunPaths, order: Order | None = None) -> None:
    """Write the file that Envoy watches, in one step, so that it never reads half a file.

    Args:
        config: ``gateway.yaml``.
        paths: ``clusters`` is the file.
        order: Regions by preference.

    Raises:
        GatewayConfigError: A region asks for TLS, and this machine's CAs are not found.
    """
    resources = [typed("config.cluster.v3.Cluster", **each) for each in pool_clusters(config, order)]
    body = json.dumps(resources, sort_keys=True)
    version = hashlib.sha256(body.encode()).hexdigest()[:16]
    write_private(paths.clusters, f'{{"version_info": "{version}", "resources": {body}}}')


def pool_clusters(config: GatewayConfig, order: Order | None = None) -> list[dict[str, Any]]:
    """Every cluster of every pool.

    Args:
        config: ``gateway.yaml``.
        order: Regions by preference.

    Raises:
        GatewayConfigError: A region asks for TLS, and this machine's CAs are not found.
    """
    found = []
    for pool in config.pools:
        preferred = _preferred(config, pool, (order or {}).get(pool.name))
        for protocol in PROTOCOLS:
            found += [_region(config.resilience, pool, region, protocol) for region in pool.regions]
            found += _layers(config.resilience, pool, preferred, protocol)
    return found


def _preferred(config: GatewayConfig, pool: Pool, order: Sequence[str] | None) -> list[str]:
    """Names of the home regions; what an order leaves out comes after what it names."""
    names = [region.name for region in pool.home_regions]
    if order is None:
        order = [config.region] if config.region else []
    first = [name for name in order if name in names]
    return first + [name for name in names if name not in first]


def _layers(
    resilience: Resilience, pool: Pool, preferred: Sequence[str], protocol: Protocol
) -> Iterator[dict[str, Any]]:
    home = [region_cluster(pool.name, region, protocol) for region in preferred]
    if pool.overflow is None:
        yield _aggregate(resilience, home_cluster(pool.name, protocol), home)
        return
    spare = region_cluster(pool.name, pool.overflow.region, protocol)
    yield _aggregate(resilience, home_cluster(pool.name, protocol), [*home, spare])
    yield _aggregate(resilience, overflow_cluster(pool.name, protocol), [spare, *home])


def _aggregate(resilience: Resilience, name: str, members: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "connect_timeout": seconds(resilience.connect_timeout_s),
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": extension(
            "envoy.clusters.aggregate",
            "extensions.clusters.aggregate.v3.ClusterConfig",
            clusters=list(members),
        ),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": _retry_breaker(resilience),
    }


def _region(resilience: Resilience, pool: Pool, region: Region, protocol: Protocol) -> dict[str, Any]:
    name = region_cluster(pool.name, region.name, protocol)
    cluster: dict[str, Any] = {
        "name": name,
        "connect_timeout": seconds(resilience.connect_timeout_s),
        **endpoints(name, region, protocol),
        "load_balancing_policy": _least_request(resilience),
        # No panic: servers known to be ill get nothing, so the next region does. A new one counts once ready.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "ignore_new_hosts_until_first_hc": True,
        },
        "health_checks": [_health_check(resilience, protocol)],
        "outlier_detection": _outliers(resilience),
        "circuit_breakers": _breakers(resilience),
        "typed_extension_protocol_options": {
            f"envoy.{_HTTP_OPTIONS}": _protocol_options(resilience, protocol)
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}
        },
        "upstream_bind_config": {
            "socket_options": [
                {
                    "description": "TCP_USER_TIMEOUT",
                    "level": _TCP,
                    "name": _TCP_USER_TIMEOUT,
                    "int_value": _UNACKNOWLEDGED_MS,
                    "state": "STATE_PREBIND",
                }
            ]
        },
    }
    if region.tls or region.ca_file:
        cluster["transport_socket"] = transport_socket(region, protocol)
    return cluster


def _least_request(resilience: Resilience) -> dict[str, Any]:
    """Of a few servers drawn by lot, the one with the fewest requests in flight.

    Not of all: one that fails fast has the fewest, and would get every request and every retry.
    """
    policy = extension(
        "envoy.load_balancing_policies.least_request",
        "extensions.load_balancing_policies.least_request.v3.LeastRequest",
        choice_count=_DRAWN,
        slow_start_config={
            "slow_start_window": seconds(resilience.slow_start_s),
            "min_weight_percent": {"value": 10},
        },
    )
    return {"policies": [{"typed_extension_config": policy}]}


def _health_check(resilience: Resilience, protocol: Protocol) -> dict[str, Any]:
    health = resilience.health
    interval = seconds(health.interval_s)
    check: dict[str, Any] = {
        "timeout": seconds(health.timeout_s),
        "interval": interval,
        # A region that waits in reserve is checked as often as one that serves.
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "interval_jitter_percent": 10,
        "unhealthy_threshold": health.unhealthy_after,
        "healthy_threshold": health.healthy_after,
        # A Triton that stops waits for open HTTP connections.
        "reuse_connection": protocol == "grpc",
    }
    if protocol == "grpc":
        return {**check, "grpc_health_check": {}}
    return {**check, "http_health_check": {"path": _READY_PATH}}


def _outliers(resilience: Resilience) -> dict[str, Any]:
    """Servers that do not answer are left out; an answer, also one of a full queue, is no such fault."""
    outliers = resilience.outliers
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": outliers.consecutive_failures,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": seconds(outliers.ejection_s),
        "max_ejection_time": seconds(outliers.ejection_s * 6),
        "max_ejection_percent": int(outliers.max_ejected_percent),
        # Triton's health can be well while a model hangs.
        "successful_active_health_check_uneject_host": False,
    }


def _breakers(resilience: Resilience) -> dict[str, Any]:
    breakers = resilience.breakers
    threshold = {
        "max_connections": breakers.max_connections,
        "max_pending_requests": breakers.max_pending_requests,
        "max_requests": breakers.max_requests,
        "track_remaining": True,
    }
    return {"thresholds": [threshold]}


def _retry_breaker(resilience: Resilience) -> dict[str, Any]:
    """The bound of retries, which are counted in the upper layer, as all else is in the lower.

    Not Envoy's `retry_budget`: it is a share of the requests counted in the same cluster, and here none are.
    """
    retries = resilience.retries
    share = int(resilience.breakers.max_requests * retries.budget_percent / 100)
    most = max(retries.min_concurrency, share)
    return {"thresholds": [{"max_retries": most, "track_remaining": True}]}


def _protocol_options(resilience: Resilience, protocol: Protocol) -> dict[str, Any]:
    explicit: dict[str, Any] = {"http_protocol_options": {}}
    if protocol == "grpc":
        # A ping goes before a request on a connection that has been silent. Not at fixed intervals, and not
        # sooner: at the fourth ping within one silence a gRPC server ends the connection ("too_many_pings"),
        # and no request may be silent for longer than three.
        longest = max(resilience.request_timeout_s, resilience.stream_idle_timeout_s)
        explicit = {
            "http2_protocol_options": {
                "max_concurrent_streams": _STREAMS,
                "connection_keepalive": {"connection_idle_interval": seconds(longest / 3), "timeout": "5s"},
            }
        }
    return typed(
        _HTTP_OPTIONS,
        explicit_http_config=explicit,
        common_http_protocol_options={"idle_timeout": seconds(_IDLE_S)},
    )
