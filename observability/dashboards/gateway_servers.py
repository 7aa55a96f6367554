"""The gateway board's rows about what is behind it: servers, regions, breakers, retries."""

from __future__ import annotations

from observability.dashboards.panels import Panel, mapping, query, series, states
from observability.dashboards.promql import rate, total

INSTANCE = 'instance=~"$instance"'
SERVERS = f'{INSTANCE}, envoy_cluster_name=~".+/.+/(http|grpc)"'
"""The servers of a pool in one region are a cluster, ``POOL/REGION/PROTOCOL``."""
_POOLS = f'{INSTANCE}, envoy_cluster_name=~"[^/]+/(http|grpc)(/overflow)?", envoy_cluster_name!~"facade/.+"'
"""Over these lies ``POOL/PROTOCOL``, which counts what concerns whole requests: codes, retries, timeouts."""
_CLUSTER = "envoy_cluster_name"
_OPEN = mapping(closed=(0, "green"), open=(1, "red"))


def servers() -> tuple[Panel, ...]:
    """Health, traffic and answers of the servers, by region."""
    return (
        series(
            "Healthy servers by region",
            "As this gateway's health checks and ejections see them. None left: the next region is asked.",
            "none",
            query(
                total("envoy_cluster_membership_healthy", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}}",
            ),
        ),
        series(
            "Requests by region",
            "Tries sent to servers.",
            "reqps",
            query(rate("envoy_cluster_upstream_rq_total", SERVERS, by=_CLUSTER), "{{envoy_cluster_name}}"),
        ),
        series(
            "Answers of servers by code",
            "Pools by protocol. gRPC's own status is not in it: Triton's failures are on the model's board.",
            "reqps",
            query(
                rate(
                    "envoy_cluster_upstream_rq",
                    _POOLS,
                    by=f"{_CLUSTER}, envoy_response_code",
                ),
                "{{envoy_cluster_name}} {{envoy_response_code}}",
            ),
        ),
        series(
            "Health checks that failed",
            "By region. The causes are in the servers' logs.",
            "cps",
            query(
                rate("envoy_cluster_health_check_failure", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}}",
            ),
        ),
        series(
            "Ejected servers",
            "Out of balancing for errors in a row, now; and ejections a second.",
            "none",
            query(
                total("envoy_cluster_outlier_detection_ejections_active", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}} now",
            ),
            query(
                rate("envoy_cluster_outlier_detection_ejections_enforced_total", SERVERS),
                "ejections a second",
            ),
        ),
        series(
            "Requests in flight, and waiting for a connection",
            "Sent and not answered, by region.",
            "none",
            query(
                total("envoy_cluster_upstream_rq_active", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}}",
            ),
            query(
                total("envoy_cluster_upstream_rq_pending_active", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}} waiting",
            ),
        ),
    )


def breakers_and_retries() -> tuple[Panel, ...]:
    """What is refused, repeated or cut off on the way to the servers."""
    return (
        states(
            "Breakers",
            "Open: the bound of requests in flight is reached, and more are refused with 503.",
            query(
                f"max by ({_CLUSTER}) (envoy_cluster_circuit_breakers_default_rq_open{{{SERVERS}}})",
                "{{envoy_cluster_name}}",
            ),
            _OPEN,
        ),
        series(
            "Room before the breaker",
            "Requests that may still be in flight. At 0 it opens.",
            "none",
            query(
                f"min by ({_CLUSTER}) (envoy_cluster_circuit_breakers_default_remaining_rq{{{SERVERS}}})",
                "{{envoy_cluster_name}}",
            ),
        ),
        series(
            "Retries",
            "Tries that were repeated, that succeeded then, and that the bound of retries forbade.",
            "cps",
            query(rate("envoy_cluster_upstream_rq_retry", _POOLS), "repeated"),
            query(rate("envoy_cluster_upstream_rq_retry_success", _POOLS), "succeeded"),
            query(rate("envoy_cluster_upstream_rq_retry_overflow", _POOLS), "forbidden"),
        ),
        series(
            "Refused by breakers (503)",
            "Requests that found the bounds reached.",
            "cps",
            query(
                rate("envoy_cluster_upstream_rq_pending_overflow", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}}",
            ),
        ),
        series(
            "Connections to servers that failed",
            "Refused, or not made in time.",
            "cps",
            query(
                rate("envoy_cluster_upstream_cx_connect_fail", SERVERS, by=_CLUSTER),
                "{{envoy_cluster_name}}",
            ),
        ),
        series(
            "Timeouts",
            "Whole requests, and single tries.",
            "cps",
            query(rate("envoy_cluster_upstream_rq_timeout", _POOLS), "requests"),
            query(rate("envoy_cluster_upstream_rq_per_try_timeout", _POOLS), "tries"),
        ),
    )
