"""The compose files: judged by the schema and by Compose itself, then read as who has to run them would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tritonforge import __version__
from tritonforge.server import plans

ROOT = Path(__file__).parents[2]
FILES = ("compose.yaml", "compose.triton.yaml")
PROFILES = ("cpu", "gpu", "build")
# Distroless: there is nothing in them that could ask.
WITHOUT_CHECK = {"otel-collector", "tempo"}
# Whose image's own user is not root, as its Dockerfile says; the others are told by `user` or are ours.
NOT_ROOT = {
    "prom/prometheus",
    "prom/alertmanager",
    "grafana/grafana",
    "otel/opentelemetry-collector",
    "grafana/tempo",
}


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"pip install -e '.[dev]' brings {name}"
    return found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder, with secrets as the page says to make them."""
    folder = tmp_path_factory.mktemp("compose") / "docker"
    shutil.copytree(ROOT / "docker", folder, ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    script = folder / "compose_secrets.py"
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    return folder


def compose(folder: Path, name: str, *profiles: str) -> dict[str, Any]:
    """What Compose makes of a file: variables filled in, anchors merged, paths absolute."""
    command = [tool("docker-compose"), "-f", str(folder / name)]
    command += [part for profile in profiles for part in ("--profile", profile)]
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("COMPOSE", "TRITON"))
    }
    done = subprocess.run(
        [*command, "config", "--format", "json"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr, done.stderr
    model: dict[str, Any] = json.loads(done.stdout)
    return model


@pytest.fixture(scope="module")
def services(docker: Path) -> dict[str, dict[str, Any]]:
    """Every service of compose.yaml."""
    found: dict[str, dict[str, Any]] = compose(docker, "compose.yaml", *PROFILES)["services"]
    return found


@pytest.fixture(scope="module")
def all_services(docker: Path, services: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of the minimal file too."""
    minimal = compose(docker, "compose.triton.yaml")["services"]
    return {**services, **{f"minimal {name}": each for name, each in minimal.items()}}


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_by_the_schema_of_the_compose_specification(name: str) -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / "docker" / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_profile_has_to_be_named_and_brings_one_server(docker: Path) -> None:
    assert compose(docker, "compose.yaml")["services"] == {}
    around = {"gateway", "redis", "prometheus", "alertmanager", "grafana", "otel-collector", "tempo"}
    assert set(compose(docker, "compose.yaml", "cpu")["services"]) == around | {"triton"}
    assert set(compose(docker, "compose.yaml", "gpu")["services"]) == around | {"triton-gpu"}
    assert set(compose(docker, "compose.yaml", "build")["services"]) == {"build-engines"}


def test_every_mounted_file_is_there_and_read_only(docker: Path, all_services: dict[str, Any]) -> None:
    written = {"/models", "/build"}  # by build-engines
    for name, service in all_services.items():
        for mount in service.get("volumes", ()):
            if mount["type"] != "bind":
                continue
            source = Path(mount["source"])
            if source.is_relative_to(docker):
                assert source.exists(), source
            else:  # folders of the checkout, or made by a build
                assert source.relative_to(docker.parent).parts[0] in {"model_repository", "recipes", "build"}
            assert mount.get("read_only") or (name == "build-engines" and mount["target"] in written)


def test_secrets_are_files_that_the_script_makes(docker: Path) -> None:
    model = compose(docker, "compose.yaml", *PROFILES)
    for secret in model["secrets"].values():
        path = Path(secret["file"])
        assert path.is_file()
        # Containers run as others; the folder keeps the host's other users out.
        assert path.stat().st_mode & 0o777 == 0o444
        assert path.parent.stat().st_mode & 0o777 == 0o700
    ignored = subprocess.run(
        ["git", "check-ignore", "docker/secrets/gateway.env"], cwd=ROOT, capture_output=True, check=False
    )
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()


def test_no_password_is_written_down(all_services: dict[str, Any]) -> None:
    for name, service in all_services.items():
        for key, value in (service.get("environment") or {}).items():
            if key == "TRITONFORGE_REDIS_URL":  # read from secrets/gateway.env
                assert name == "gateway"
                continue
            secret = re.search("PASSWORD|SECRET|TOKEN|KEY", key)
            assert not secret or (key.endswith("__FILE") and value.startswith("/run/secrets/"))
    for name in FILES:
        text = (ROOT / "docker" / name).read_text().lower()
        assert not re.search(r"password[:=]\s*[\"']?\w", text)


def test_making_secrets_twice_changes_nothing_and_no_two_are_alike(docker: Path, tmp_path: Path) -> None:
    def made(folder: Path) -> dict[str, str]:
        command = [sys.executable, docker / "compose_secrets.py", "--folder", folder]
        subprocess.run(command, check=True, capture_output=True)
        return {path.name: path.read_text() for path in folder.iterdir()}

    first = made(tmp_path / "first")
    assert made(tmp_path / "first") == first
    second = made(tmp_path / "second")
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] == second[name]} == {
        "pagerduty_routing_key",
        "slack_webhook_url",
    }
    # The pair that shares a password is made anew together.
    (tmp_path / "first" / "redis.acl").unlink()
    third = made(tmp_path / "first")
    assert third["gateway.env"] != first["gateway.env"] and third["redis.acl"] != first["redis.acl"]


def test_containers_can_do_little(all_services: dict[str, Any]) -> None:
    for name, service in all_services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged") and not service.get("cap_add"), name
        assert service.get("network_mode") != "host", name
        image = service["image"].rpartition(":")[0]
        assert int(service.get("user", "0").partition(":")[0]) or image in NOT_ROOT | {"tritonforge"}, name
        assert not any("docker.sock" in mount["source"] for mount in service.get("volumes", ())), name


def test_containers_are_bounded_and_watched(all_services: dict[str, Any]) -> None:
    for name, service in all_services.items():
        if name == "build-engines":  # runs once, by hand, with all that the machine has
            continue
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        assert service["restart"] == "unless-stopped", name
        # Ours bring theirs in the image.
        own = service["image"].startswith("tritonforge:")
        assert own or name in WITHOUT_CHECK or service["healthcheck"]["test"][0] == "CMD", name


def test_only_loopback_is_published_and_only_by_who_is_on_the_front(docker: Path) -> None:
    model = compose(docker, "compose.yaml", *PROFILES)
    for name, service in model["services"].items():
        ports = service.get("ports", [])
        assert all(port["host_ip"] == "127.0.0.1" for port in ports), name
        assert not ports or "front" in service["networks"], f"{name}: an internal network publishes nothing"
    internal = {name for name, network in model["networks"].items() if network.get("internal")}
    assert internal == {"inference", "limits", "telemetry"}
    (minimal,) = compose(docker, "compose.triton.yaml")["services"].values()
    assert all(port["host_ip"] == "127.0.0.1" for port in minimal["ports"])


def test_images_have_versions(all_services: dict[str, Any]) -> None:
    for name, service in all_services.items():
        image, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d+\.\d+", tag), f"{name}: {service['image']} moves"
        if image == "tritonforge":
            assert tag.startswith(f"{__version__}-")


def test_what_is_built_is_named_as_in_its_dockerfile(services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" in service:
            build = service["build"]
            text = (ROOT / build["dockerfile"]).read_text()
            assert f"-t {service['image']} ." in text
            assert build.get("target", "builder") == "builder"


def test_gpu_images_are_of_one_month_whose_tensorrt_is_known(all_services: dict[str, Any]) -> None:
    bases = re.findall(
        r"^FROM nvcr\.io/nvidia/(\w+):(\S+)-py3", (ROOT / "docker/Dockerfile.gpu").read_text(), re.M
    )
    assert {name for name, _ in bases} == {"tensorrt", "tritonserver"}
    (month,) = {month for _, month in bases}
    assert all_services["minimal triton"]["image"].endswith(f":{month}-py3")
    assert month in plans._IMAGES.values()


def reach(services: dict[str, Any], client: str, host: str) -> set[str]:
    """Services behind a name, of those that share a network with the client."""
    found = set()
    for name, service in services.items():
        for network, settings in (service.get("networks") or {}).items():
            names = {name, *((settings or {}).get("aliases") or ())}
            if host in names and network in services[client]["networks"]:
                found.add(name)
    return found


def urls(value: Any) -> list[tuple[str, int]]:
    """Hosts and ports of all URLs in a document."""
    if isinstance(value, dict):
        return [each for item in value.values() for each in urls(item)]
    if isinstance(value, list):
        return [each for item in value for each in urls(item)]
    return [(host, int(port)) for host, port in re.findall(r"^http://([\w-]+):(\d+)$", str(value))]


def test_everybody_reaches_whom_they_are_told_of(docker: Path, services: dict[str, Any]) -> None:
    listening = {
        ("triton", 8002),
        ("triton-gpu", 8002),
        ("gateway", 8090),
        ("redis", 6379),
        ("prometheus", 9090),
        ("alertmanager", 9093),
        ("tempo", yaml.safe_load((docker / "tempo/tempo.yaml").read_text())["server"]["http_listen_port"]),
        *((name, int(port)) for name, port in _otlp(docker)),
    }
    asked: list[tuple[str, str, int]] = []
    for server in ("triton", "triton-gpu"):
        asked += [(server, *found) for found in urls(services[server]["command"])]
    gateway = yaml.safe_load((docker / "gateway/gateway.yaml").read_text())
    asked += [("gateway", *found) for found in urls(gateway)]
    dns = gateway["pools"][0]["regions"][0]["dns"]["name"]
    assert reach(services, "gateway", dns) == {"triton", "triton-gpu"}
    asked += [
        ("otel-collector", *found)
        for found in urls(yaml.safe_load((docker / "otel/collector.yaml").read_text())["exporters"])
    ]
    for sources in (docker / "grafana/provisioning/datasources").glob("*.yml"):
        asked += [("grafana", *found) for found in urls(yaml.safe_load(sources.read_text()))]
    for targets in (docker / "prometheus/compose").glob("*.yml"):
        for group in yaml.safe_load(targets.read_text()):
            asked += [("prometheus", *_pair(target)) for target in group["targets"]]
    redis = re.search(r"@([\w-]+):(\d+)/", services["gateway"]["environment"]["TRITONFORGE_REDIS_URL"])
    assert redis is not None
    asked.append(("gateway", redis[1], int(redis[2])))
    assert len(asked) >= 9
    for client, host, port in asked:
        behind = reach(services, client, host)
        assert behind, f"{client} cannot reach {host}"
        assert {(name, port) for name in behind} <= listening, f"nobody listens on {host}:{port}"


def _otlp(docker: Path) -> list[tuple[str, str]]:
    collector = yaml.safe_load((docker / "otel/collector.yaml").read_text())["receivers"]
    tempo = yaml.safe_load((docker / "tempo/tempo.yaml").read_text())["distributor"]["receivers"]
    return [
        (name, receivers["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2])
        for name, receivers in (("otel-collector", collector), ("tempo", tempo))
    ]


def _pair(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def test_the_collectors_pipelines_are_whole(docker: Path) -> None:
    config = yaml.safe_load((docker / "otel/collector.yaml").read_text())
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == config[kind].keys()
    for pipeline in config["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"


def test_prometheus_takes_the_folder_as_it_is_mounted(
    docker: Path, services: dict[str, Any], tmp_path: Path
) -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "apt-get install prometheus"
    for mount in services["prometheus"]["volumes"]:
        if mount["type"] == "bind":
            source, target = (
                Path(mount["source"]),
                tmp_path / mount["target"].removeprefix("/etc/prometheus/"),
            )
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    command = [promtool, "check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    files = re.findall(r"targets/\w+\.yml", json.dumps(config))
    assert len(files) == 5
    assert all((tmp_path / file).is_file() for file in files)


def test_grafana_finds_what_is_mounted(docker: Path, services: dict[str, Any]) -> None:
    (provider,) = yaml.safe_load((docker / "grafana/provisioning/dashboards/tritonforge.yml").read_text())[
        "providers"
    ]
    targets = {mount["target"]: mount.get("source", "") for mount in services["grafana"]["volumes"]}
    assert list(Path(targets[provider["options"]["path"]]).glob("*.json"))


def test_the_gateway_takes_its_configuration_and_so_does_envoy(docker: Path) -> None:
    (line,) = (docker / "secrets/gateway.env").read_text().splitlines()
    variable, _, value = line.partition("=")
    command = [sys.executable, "-m", "tritonforge.cli", "gateway", "--check"]
    done = subprocess.run(
        [*command, "--config", docker / "gateway/gateway.yaml"],
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
