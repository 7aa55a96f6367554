"""What the chart tells the gateway and Redis, told to the real ones."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import redis
import yaml

from gateway.config.load import load_config
from gateway.control.prepare import check
from tests.deploy.helm_support import CASES, Manifest, case, one, over, render, rendered

WITH_GATEWAY = [name for name in CASES if name != "bare"]


def configuration(manifests: list[Manifest], folder: Path) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(one(manifests, "ConfigMap", "-gateway")["data"]["gateway.yaml"])
    return path


@pytest.mark.parametrize("name", WITH_GATEWAY)
def test_the_gateway_takes_its_configuration(name: str, tmp_path: Path) -> None:
    config = load_config(configuration(rendered(name), tmp_path))
    assert (config.listen.host, config.listen.port) == ("0.0.0.0", 8080)
    assert (config.metrics.host, config.metrics.port) == ("0.0.0.0", 8090)
    (region,) = config.pools[0].regions
    headless = one(rendered(name), "Service", "-headless")
    assert region.kubernetes is not None
    assert region.kubernetes.service == headless["metadata"]["name"]
    assert region.kubernetes.namespace == "inference"
    ports = {port["name"]: port["port"] for port in headless["spec"]["ports"]}
    assert (region.kubernetes.http_port, region.kubernetes.grpc_port) == (ports["http"], ports["grpc"])


def test_envoy_takes_what_is_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONFORGE_REDIS_URL", "redis://localhost:6379/0")
    values = over(case("everything"), {"gateway": {"tls": {"secretName": ""}}})  # no certificate is here
    check(load_config(configuration(render(values), tmp_path)))


def test_a_user_says_more_and_the_addresses_stay(tmp_path: Path) -> None:
    said = {"listen": {"host": "127.0.0.1", "port": 1, "trusted_hops": 2}, "facade": {"workers": 3}}
    manifests = render(over(case("minimal"), {"gateway": {"config": said}}))
    config = load_config(configuration(manifests, tmp_path))
    assert (config.listen.host, config.listen.port, config.listen.trusted_hops) == ("0.0.0.0", 8080, 2)
    assert config.facade.workers == 3


def test_pools_of_the_users_own_replace_the_charts(tmp_path: Path) -> None:
    pools = [{"name": "all", "regions": [{"name": "far", "dns": {"name": "triton.example.com"}}]}]
    manifests = render(over(case("minimal"), {"gateway": {"config": {"pools": pools}}}))
    config = load_config(configuration(manifests, tmp_path))
    assert [pool.name for pool in config.pools] == ["all"]


def test_another_configuration_means_other_pods() -> None:
    def checksum(values: Manifest) -> str:
        template = one(render(values), "Deployment", "-gateway")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    other = over(case("minimal"), {"gateway": {"config": {"facade": {"workers": 2}}}})
    assert checksum(case("minimal")) == checksum(case("minimal")) != checksum(other)


@pytest.mark.parametrize("name", ["everything"])
def test_files_that_the_configuration_names_are_mounted(name: str, tmp_path: Path) -> None:
    manifests = rendered(name)
    config = yaml.safe_load(configuration(manifests, tmp_path).read_text())
    container = one(manifests, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    named = [config["auth"]["api_keys"]["file"], *config["listen"]["tls"].values()]
    assert all(any(Path(file).is_relative_to(mount) for mount in mounts) for file in named)
    assert len(named) == 3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="apt-get install redis-server")
def test_redis_starts_with_its_password_and_without_it_answers_nobody(tmp_path: Path) -> None:
    manifests = rendered("everything")
    spec = one(manifests, "Deployment", "-redis")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    port = free_port()
    text = one(manifests, "ConfigMap", "-redis")["data"]["redis.conf"]
    for name in ("run", "data", "etc"):
        (tmp_path / name).mkdir()
    moved = {"/run/redis": tmp_path / "run", "/data": tmp_path / "data", "/etc/redis": tmp_path / "etc"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == set(moved)
    script = container["command"][2]
    for inside, here in moved.items():
        text, script = text.replace(inside, str(here)), script.replace(inside, str(here))
    text = text.replace("port 6379", f"port {port}").replace("bind * -::*", "bind 127.0.0.1")
    (tmp_path / "etc" / "redis.conf").write_text(text)

    environment = os.environ | {"REDIS_PASSWORD": "0a1b2c"}
    with subprocess.Popen([*container["command"][:2], script], env=environment) as server:
        try:
            client = redis.Redis(port=port, password="0a1b2c")
            deadline = time.monotonic() + 10
            while True:
                try:
                    assert client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.05)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            assert client.config_get("maxmemory") == {"maxmemory": str(128 << 20)}
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port).ping()
            told = (
                Path(f"/proc/{server.pid}/cmdline").read_text()
                + Path(f"/proc/{server.pid}/environ").read_text()
            )
            assert "0a1b2c" not in Path(f"/proc/{server.pid}/cmdline").read_text() and told
        finally:
            server.terminate()
