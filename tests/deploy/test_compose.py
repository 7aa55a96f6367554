"""The compose target: every file that is mounted is there, and programs take the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from deploy.compose import HERE, load_stack
from deploy.deployment import Canary, Source
from deploy.render import render
from deploy.targets import compose
from gateway.config.load import load_config
from tests.deploy.samples import SHA256, deployment, encoder, generator, on_gpu
from tritonforge.cli import app
from tritonforge.errors import UsageError

LOCAL = Source("local", "/srv/models")
DEPLOYMENTS = {
    "folder": deployment(encoder(), generator(), replicas=1, source=LOCAL),
    "archive": deployment(replicas=1),
    "image": deployment(replicas=1, source=Source("oci", "registry.example.com/models/minilm:1")),
    "gpu": deployment(on_gpu(), replicas=1, source=LOCAL),
}


@pytest.fixture(params=DEPLOYMENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def output(name: str, tmp_path: Path) -> Path:
    render("compose", DEPLOYMENTS[name], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def stack(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((output / "compose.yaml").read_text())
    return found


def volumes(service: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Source, target, and whether it is read-only, of both ways to write a mount."""
    found = []
    for each in service.get("volumes", []):
        if isinstance(each, str):
            source, target, *mode = each.split(":")
            found.append((source, target, mode == ["ro"]))
        else:
            found.append((each["source"], each["target"], each.get("read_only", False)))
    return found


def test_all_that_is_named_is_there(stack: dict[str, Any], output: Path) -> None:
    subprocess.run([sys.executable, output / "compose_secrets.py"], check=True, capture_output=True)
    declared = {"networks": set(stack["networks"]), "secrets": set(stack["secrets"])}
    for service in stack["services"].values():
        for source, _, read_only in volumes(service):
            if source.startswith("./"):
                assert (output / source).exists(), source
                assert read_only
            elif not source.startswith("/"):
                assert source in stack["volumes"]
        for file in service.get("env_file", []):
            assert not isinstance(file, str) or (output / file).is_file()
        for kind, names in declared.items():
            assert set(service.get(kind, [])) <= names
        for other in service.get("depends_on", {}):
            assert other in stack["services"]
    for secret in stack["secrets"].values():
        assert (output / secret["file"]).is_file()


def test_nothing_is_left_to_the_environment(output: Path, stack: dict[str, Any]) -> None:
    text = (output / "compose.yaml").read_text()
    assert "${" not in text
    for service in stack["services"].values():
        assert "profiles" not in service and "build" not in service
        assert service["image"].rpartition(":")[2] not in ("", "latest")


def test_every_service_is_confined(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert not service.get("privileged")
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        assert "cap_add" not in service or (name == "own-models" and service["network_mode"] == "none")


def test_the_server_takes_the_arguments(stack: dict[str, Any], name: str) -> None:
    server = stack["services"]["triton"]
    serve = typer.main.get_command(app).commands["serve"]
    entry = ["--host", "0.0.0.0", "--repository", "/models"]  # the image's entry point
    parsed = serve.make_context("serve", [*entry, *server["command"]]).params
    assert list(parsed["load"]) == list(DEPLOYMENTS[name].parts)
    assert parsed["engine_threads"] == DEPLOYMENTS[name].engine_threads
    assert int(server["stop_grace_period"].removesuffix("s")) > parsed["exit_timeout"]
    ((source, target, read_only),) = volumes(server)
    assert (Path(target), read_only) == (parsed["repository"], True)
    devices = server["deploy"]["resources"].get("reservations", {}).get("devices", [])
    assert [device["count"] for device in devices] == ([1] if name == "gpu" else [])
    assert (source == "/srv/models") == (DEPLOYMENTS[name].source == LOCAL)


def test_models_are_there_before_the_server(stack: dict[str, Any], name: str) -> None:
    services = stack["services"]
    wanted = DEPLOYMENTS[name].source
    if wanted.kind == "local":
        assert "fetch-models" not in services
        return
    finished = {"condition": "service_completed_successfully"}
    assert services["triton"]["depends_on"] == {"fetch-models": finished}
    fetch = services["fetch-models"]
    assert fetch["depends_on"] == {"own-models": finished}
    assert fetch["user"] == "65532:65532"
    (volume, target, read_only) = volumes(fetch)[0]
    assert volume == volumes(services["triton"])[0][0] and not read_only
    if wanted.kind == "url":
        command = typer.main.get_command(app).commands["fetch"]
        assert fetch["entrypoint"][:2] == ["tritonforge", "fetch"]
        parsed = command.make_context("fetch", fetch["entrypoint"][2:]).params
        assert (parsed["source"], parsed["sha256"]) == (wanted.value, SHA256)
        assert parsed["into"] == Path(target)
    else:
        assert fetch["image"] == wanted.value and fetch["command"] == [f"{target}/"]


def test_the_door_reads_its_configuration_and_knows_the_server(output: Path, stack: dict[str, Any]) -> None:
    config = load_config(output / "gateway" / "gateway.yaml")
    (region,) = config.pools[0].regions
    assert region.dns is not None and region.dns.name in stack["services"]
    shared = set(stack["services"]["gateway"]["networks"]) & set(stack["services"]["triton"]["networks"])
    assert "inference" in shared


def test_what_compose_is_not_for() -> None:
    with pytest.raises(UsageError, match="one server on one machine"):
        compose.render(deployment(replicas=2))
    with pytest.raises(UsageError, match="Kubernetes"):
        compose.render(deployment(replicas=1, source=Source("pvc", "claim")))
    with pytest.raises(UsageError, match="divides no requests"):
        compose.render(deployment(replicas=1, canary=Canary(Source("url", "s3://a/b"))))


def test_another_repository_is_another_volume() -> None:
    names = {
        next(iter(set(yaml.safe_load(text)["volumes"]) - set(load_stack()["volumes"])))
        for digest in ("0" * 64, "1" * 64)
        for text in [
            compose.render(deployment(replicas=1, source=Source("url", "s3://a/b.tar", digest)))[
                "compose.yaml"
            ]
        ]
    }
    assert len(names) == 2


def test_the_package_holds_no_secrets() -> None:
    assert not (HERE / "secrets").exists()


def test_the_schema_and_compose_itself_take_it(output: Path, stack: dict[str, Any]) -> None:
    subprocess.run([sys.executable, output / "compose_secrets.py"], check=True, capture_output=True)
    schema = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", output / "compose.yaml"]
    config = ["docker-compose", "-f", output / "compose.yaml", "config", "--format", "json"]
    for program, *arguments in (schema, config):
        found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
        assert found is not None, f"pip install -e '.[dev]' brings {program}"
        done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "level=warning" not in done.stderr, done.stderr
    assert json.loads(done.stdout)["services"].keys() == stack["services"].keys()
