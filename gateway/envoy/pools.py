"""What a route needs to know of a pool: names of clusters, timeouts, tries, the share of the overflow."""

from __future__ import annotations

from typing import Any, Literal

from gateway.config import GatewayConfig
from gateway.config.pools import Pool
from gateway.envoy.typed import extension

Protocol = Literal["http", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")

_PREVIOUS_HOSTS = "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_PREVIOUS_PRIORITIES = "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
# The choice of a server is repeated so often until it falls on one that was not tried.
_CHOICES = 100


def seconds(value: float) -> str:
    """A duration as Envoy's JSON takes it."""
    return f"{value:.3f}s"


def next_try() -> dict[str, Any]:
    """The part of a retry policy that says when and where: soon, and at a host not tried yet."""
    return {
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
        "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts", _PREVIOUS_HOSTS)],
        "host_selection_retry_max_attempts": _CHOICES,
    }


def region_cluster(pool: str, region: str, protocol: Protocol) -> str:
    """Name of the cluster that holds the servers of a pool in one region."""
    return f"{pool}/{region}/{protocol}"


def home_cluster(pool: str, protocol: Protocol) -> str:
    """Name of the cluster of clusters that serves a pool: home regions by preference, the overflow last."""
    return f"{pool}/{protocol}"


def overflow_cluster(pool: str, protocol: Protocol) -> str:
    """Name of the cluster of clusters for the share of the overflow: its region first, then home."""
    return f"{pool}/{protocol}/overflow"


def overflow_weights(pool: str, percent: int) -> dict[str, int]:
    """Runtime values of Envoy that send a share of a pool's requests to its overflow.

    Args:
        pool: Its name.
        percent: The share, 0 to 100.
    """
    weights = {}
    for protocol in PROTOCOLS:
        weights[f"{_runtime_prefix(pool)}.{home_cluster(pool, protocol)}"] = 100 - percent
        weights[f"{_runtime_prefix(pool)}.{overflow_cluster(pool, protocol)}"] = percent
    return weights


def pool_action(config: GatewayConfig, pool: Pool, protocol: Protocol, streams: bool) -> dict[str, Any]:
    """Envoy's ``RouteAction`` for requests to a pool.

    Args:
        config: Timeouts and retries.
        pool: Whose servers.
        protocol: KServe v2 over HTTP, or over gRPC.
        streams: The answer comes in parts over a long time. Such a request is tried again only before its
            first part, and has no time limit for one try but for silence.
    """
    resilience = config.resilience
    whole = seconds(resilience.stream_timeout_s if streams else resilience.request_timeout_s)
    # Silence that a retry can cure ends a try; this is for a caller's stream that is open and unused.
    tries = resilience.retries.attempts + 1
    silence = seconds(min(resilience.stream_idle_timeout_s * tries, resilience.stream_timeout_s))
    action: dict[str, Any] = {
        # A stream's time runs from its start; `timeout` would wait for the end of the request.
        "timeout": "0s" if streams else whole,
        "idle_timeout": silence if streams else whole,
        "retry_policy": _retry_policy(config, protocol, streams),
    }
    if streams or protocol == "grpc":
        limits: dict[str, str] = {"max_stream_duration": whole}
        if protocol == "grpc":
            limits["grpc_timeout_header_max"] = whole
        action["max_stream_duration"] = limits
    if resilience.retries.hedge and not streams:
        action["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    if pool.overflow is None:
        return {"cluster": home_cluster(pool.name, protocol), **action}
    action["weighted_clusters"] = {
        "clusters": [
            {"name": home_cluster(pool.name, protocol), "weight": 100},
            {"name": overflow_cluster(pool.name, protocol), "weight": 0},
        ],
        "runtime_key_prefix": _runtime_prefix(pool.name),
    }
    return action


def _runtime_prefix(pool: str) -> str:
    return f"tritonforge.overflow.{pool}"


def _retry_policy(config: GatewayConfig, protocol: Protocol, streams: bool) -> dict[str, Any]:
    """Inference changes nothing, so a request may be asked again, also after it was sent."""
    retries = config.resilience.retries
    if retries.attempts == 0:
        return {"num_retries": 0}
    causes = ["connect-failure", "refused-stream", "reset"]
    policy: dict[str, Any]
    # A Triton that is stopping has unloaded its models, and answers so until its connections end. Over HTTP
    # only the status tells, which a wrong name gets too.
    if protocol == "grpc":
        unloaded = {"name": "grpc-message", "string_match": {"contains": "has no available versions"}}
        causes += ["unavailable", "retriable-headers"]
        policy = {"retriable_headers": [unloaded]}
    else:
        causes.append("retriable-status-codes")
        policy = {"retriable_status_codes": [404, 503]}
    policy |= {
        "retry_on": ",".join(causes),
        "num_retries": retries.attempts,
        **next_try(),
        # The last try is made in the next region.
        "retry_priority": extension(
            "envoy.retry_priorities.previous_priorities",
            _PREVIOUS_PRIORITIES,
            update_frequency=retries.attempts,
        ),
    }
    if streams:
        policy["per_try_idle_timeout"] = seconds(config.resilience.stream_idle_timeout_s)
    else:
        policy["per_try_timeout"] = seconds(retries.per_try_timeout_s)
    return policy
