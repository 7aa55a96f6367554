from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import GatewayConfig
from gateway.envoy import binary
from gateway.envoy.clusters import pool_clusters, write_clusters
from gateway.envoy.egress import egress_listener
from gateway.envoy.endpoints import system_ca_file
from gateway.envoy.pools import overflow_weights, pool_action
from gateway.errors import GatewayError
from gateway.paths import RunPaths
from tests.gateway.control.loopback import ENVOY, one_pool

STATIC = {"servers": [{"host": "10.0.0.1"}, {"host": "10.0.0.2", "http_port": 9000, "grpc_port": 9001}]}
NAMED = {"servers": [{"host": "gpu.example.com"}]}
DNS = {"dns": {"name": "triton.example.com", "refresh_s": 2}}
HEADLESS = {"kubernetes": {"service": "triton", "namespace": "models"}}


def by_name(config: GatewayConfig, **order: list[str]) -> dict[str, dict[str, Any]]:
    return {cluster["name"]: cluster for cluster in pool_clusters(config, order or None)}


def listed(cluster: dict[str, Any]) -> list[str]:
    names: list[str] = cluster["cluster_type"]["typed_config"]["clusters"]
    return names


def hosts(cluster: dict[str, Any]) -> list[tuple[str, int]]:
    (locality,) = cluster["load_assignment"]["endpoints"]
    sockets = [each["endpoint"]["address"]["socket_address"] for each in locality["lb_endpoints"]]
    return [(socket["address"], socket["port_value"]) for socket in sockets]


def judge(config: GatewayConfig, folder: Path) -> None:
    """Let Envoy judge clusters and inner listener."""
    paths = RunPaths(folder)
    write_clusters(config, paths)
    source = {"path_config_source": {"path": str(paths.clusters)}, "resource_api_version": "V3"}
    bootstrap = {
        "dynamic_resources": {"cds_config": source},
        "static_resources": {"clusters": [], "listeners": [egress_listener(config, paths)]},
    }
    paths.bootstrap.write_text(json.dumps(bootstrap), encoding="utf-8")
    binary.validate(ENVOY, paths.bootstrap)


@pytest.mark.parametrize(
    "config",
    [
        GatewayConfig(),
        one_pool(STATIC, NAMED, {**DNS, "tls": True}),
        one_pool(HEADLESS, {**STATIC, "tls": True}, overflow={"region": "b", "above": 5}),
        one_pool(STATIC, resilience={"retries": {"attempts": 0}}),
        one_pool(STATIC, resilience={"retries": {"attempts": 1, "hedge": True}, "request_timeout_s": 0.0125}),
    ],
    ids=["defaults", "static and dns", "headless with overflow", "no retries", "hedging"],
)
def test_envoy_takes_it(config: GatewayConfig, tmp_path: Path) -> None:
    judge(config, tmp_path)


def test_envoy_would_refuse_a_bad_cluster(tmp_path: Path) -> None:
    config = one_pool({"servers": [{"host": "10.0.0.1"}], "ca_file": str(tmp_path / "missing.pem")})
    with pytest.raises(GatewayError, match=r"missing\.pem"):
        judge(config, tmp_path)


def test_each_region_is_a_cluster_for_each_protocol() -> None:
    clusters = by_name(one_pool(STATIC, DNS))
    regions = {"main/a/http", "main/a/grpc", "main/b/http", "main/b/grpc"}
    assert set(clusters) == regions | {"main/http", "main/grpc"}
    assert hosts(clusters["main/a/http"]) == [("10.0.0.1", 8000), ("10.0.0.2", 9000)]
    assert hosts(clusters["main/a/grpc"]) == [("10.0.0.1", 8001), ("10.0.0.2", 9001)]
    assert listed(clusters["main/grpc"]) == ["main/a/grpc", "main/b/grpc"]


@pytest.mark.parametrize(
    ("region", "kind", "where"),
    [
        (STATIC, "STATIC", "10.0.0.1"),
        (NAMED, "STRICT_DNS", "gpu.example.com"),
        (DNS, "STRICT_DNS", "triton.example.com"),
        (HEADLESS, "STRICT_DNS", "triton.models.svc.cluster.local."),
    ],
)
def test_servers_are_found_in_the_way_that_fits(region: dict[str, Any], kind: str, where: str) -> None:
    cluster = by_name(one_pool(region))["main/a/grpc"]
    assert cluster["type"] == kind
    assert hosts(cluster)[0] == (where, 8001)


def test_dns_is_asked_as_often_as_it_says() -> None:
    assert by_name(one_pool(DNS))["main/a/grpc"]["dns_refresh_rate"] == "2.000s"


def test_an_order_counts_and_what_it_leaves_out_comes_after() -> None:
    config = one_pool(STATIC, DNS, HEADLESS)
    assert listed(by_name(config, main=["c", "a"])["main/grpc"]) == [
        "main/c/grpc",
        "main/a/grpc",
        "main/b/grpc",
    ]
    assert listed(by_name(config, main=["x"])["main/grpc"])[0] == "main/a/grpc"


def test_the_own_region_is_first_before_anything_is_measured() -> None:
    config = one_pool(STATIC, DNS, HEADLESS, region="b")
    assert listed(by_name(config)["main/grpc"]) == ["main/b/grpc", "main/a/grpc", "main/c/grpc"]


def test_the_overflow_is_last_at_home_and_first_for_its_share() -> None:
    clusters = by_name(one_pool(STATIC, DNS, HEADLESS, overflow={"region": "a", "above": 9}))
    assert listed(clusters["main/grpc"]) == ["main/b/grpc", "main/c/grpc", "main/a/grpc"]
    assert listed(clusters["main/grpc/overflow"]) == ["main/a/grpc", "main/b/grpc", "main/c/grpc"]


def test_the_weights_that_are_set_are_those_of_the_route() -> None:
    config = one_pool(STATIC, DNS, overflow={"region": "b", "above": 9})
    weights = overflow_weights("main", 30)
    for protocol in ("http", "grpc"):
        split = pool_action(config, config.pools[0], protocol, False)["weighted_clusters"]
        keys = [f"{split['runtime_key_prefix']}.{cluster['name']}" for cluster in split["clusters"]]
        assert [weights.pop(key) for key in keys] == [70, 30]
    assert not weights


def test_a_change_of_order_touches_the_upper_layer_alone() -> None:
    config = one_pool(STATIC, DNS)
    before, after = by_name(config), by_name(config, main=["b", "a"])
    assert {name for name in before if before[name] != after[name]} == {"main/http", "main/grpc"}


def test_the_file_is_put_in_place_at_once(tmp_path: Path) -> None:
    config, paths = one_pool(STATIC, DNS), RunPaths(tmp_path)
    write_clusters(config, paths)
    first, inode = json.loads(paths.clusters.read_text()), paths.clusters.stat().st_ino
    write_clusters(config, paths, {"main": ["b", "a"]})
    second = json.loads(paths.clusters.read_text())
    assert first["version_info"] != second["version_info"]
    assert paths.clusters.stat().st_ino != inode
    assert [file.name for file in tmp_path.iterdir()] == ["clusters.json"]


def test_the_bound_of_retries_is_a_share_of_the_bound_of_requests() -> None:
    resilience = {"breakers": {"max_requests": 200}, "retries": {"budget_percent": 15, "min_concurrency": 5}}
    (threshold,) = by_name(one_pool(STATIC, resilience=resilience))["main/grpc"]["circuit_breakers"][
        "thresholds"
    ]
    assert threshold["max_retries"] == 30


def test_streams_are_retried_only_where_nothing_came_yet() -> None:
    config = GatewayConfig()
    stream = pool_action(config, config.pools[0], "grpc", True)
    assert "per_try_timeout" not in stream["retry_policy"]
    assert stream["retry_policy"]["per_try_idle_timeout"] == "60.000s"
    assert stream["timeout"] == "0s"
    assert stream["max_stream_duration"]["max_stream_duration"] == "600.000s"


def test_hedging_is_off_unless_it_is_asked_for() -> None:
    config = GatewayConfig()
    assert "hedge_policy" not in pool_action(config, config.pools[0], "grpc", False)


def test_this_machine_has_cas() -> None:
    assert "BEGIN CERTIFICATE" in Path(system_ca_file()).read_text(encoding="utf-8")
