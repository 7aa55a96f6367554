"""``tritonforge gateway`` from the shell; what it serves is tested in tests/gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.config import GatewayConfig
from tritonforge.server.ports import free_ports

COMMAND = [sys.executable, "-m", "tritonforge.cli", "gateway"]
SECRET = "a-secret-of-a-test-that-has-32-bytes-and-more"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A door for nobody's servers: they are not needed for it to open."""
    port, metrics, http, grpc = free_ports(4)
    path = tmp_path / "gateway.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "listen": {"port": port},
                "metrics": {"port": metrics},
                "pools": [
                    {"regions": [{"name": "here", "servers": [{"http_port": http, "grpc_port": grpc}]}]}
                ],
                "auth": {"development": {}, "api_keys": {"file": "keys.json"}},
            }
        )
    )
    return path


def run(*arguments: str, secret: str | None = SECRET) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITONFORGE_DEV_SECRET"}
    if secret is not None:
        environment["TRITONFORGE_DEV_SECRET"] = secret
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def running(config: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [*COMMAND, "--config", str(config), "--json"],
        env=os.environ | {"TRITONFORGE_DEV_SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("}"):
            break
    # Envoy's access log follows; a full pipe would stop it.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield json.loads(printed), process
    if process.poll() is None:
        process.kill()
    process.wait(120)


def test_tokens_and_keys_open_the_door_until_revoked(
    config: Path, running: tuple[dict[str, Any], subprocess.Popen[str]]
) -> None:
    where, process = running

    def status(**headers: str) -> int:
        return httpx.get(
            f"{where['url']}/v1/models", headers=headers, timeout=60, trust_env=False
        ).status_code

    at = ("--config", str(config))
    token = run("token", *at, "--subject", "me", "--scope", "embed").stdout.strip()
    made = json.loads(run("keys", "create", *at, "--name", "ci", "--scope", "embed", "--json").stdout)
    assert status() == 401
    assert status(authorization=f"Bearer {token}") == 200
    assert status(**{"x-api-key": made["key"]}) == 200
    quieter = json.loads(run("log-level", "error", "--run-folder", where["run_folder"], "--json").stdout)
    assert quieter["levels"] == {"facade": "error", "supervisor": "error", "envoy": "warning"}
    shown = run("log-level", "--run-folder", where["run_folder"]).stdout.split()
    assert shown == ["facade", "error", "supervisor", "error", "envoy", "warning"]
    wrong = run("log-level", "loud", "--run-folder", where["run_folder"])
    assert (wrong.returncode, "levels debug, info, warning, error" in wrong.stderr) == (2, True)
    listed = run("keys", "list", *at)
    assert made["id"] in listed.stdout and made["key"] not in listed.stdout
    assert run("keys", "revoke", *at, made["id"]).returncode == 0
    assert status(**{"x-api-key": made["key"]}) == 401
    assert made["key"] not in (config.parent / "keys.json").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    with pytest.raises(httpx.ConnectError):
        status()


def test_no_secret_is_in_an_argument_or_in_what_is_shown(
    config: Path, running: tuple[dict[str, Any], subprocess.Popen[str]]
) -> None:
    import psutil

    _, process = running
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) >= 3  # this one, Envoy, the facade
    assert not any(SECRET in " ".join(member.cmdline()) for member in family)
    shown = run("render", "--config", str(config))
    assert shown.returncode == 0
    rendered = json.loads(shown.stdout)
    assert {"bootstrap", "clusters"} <= rendered.keys()
    assert SECRET not in shown.stdout


def test_check_says_that_all_is_well(config: Path) -> None:
    done = run("--config", str(config), "--check")
    assert done.returncode == 0 and "is valid" in done.stdout


def test_init_prints_what_can_be_read(tmp_path: Path) -> None:
    printed = run("init").stdout
    assert GatewayConfig.model_validate(yaml.safe_load(printed)) == GatewayConfig()


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (None, (), ["cannot be read", "--open"]),
        ("{}", (), ["nobody could come in"]),
        ("listen: {port: 1, what: 2}", (), ["listen.what"]),
        ("auth: {development: {}}", ("--check",), ["TRITONFORGE_DEV_SECRET"]),
        ("auth: {disabled: true}\nscreen: {deny: ['(']}", ("--check",), ["("]),
        (
            "auth: {api_keys: {file: k.json}}\nenvoy: {binary: /nowhere/envoy}",
            ("--check",),
            ["/nowhere/envoy"],
        ),
        (
            "auth: {disabled: true}\nlimits: {shared: {requests_per_minute: 1}}",
            ("--check",),
            ["TRITONFORGE_REDIS_URL"],
        ),
    ],
)
def test_what_cannot_work_is_said(
    tmp_path: Path, content: str | None, arguments: tuple[str, ...], words: list[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    if content is not None:
        path.write_text(content)
    done = run("--config", str(path), *arguments, secret=None)
    assert done.returncode in (1, 2)
    assert all(word in done.stderr for word in words), done.stderr
    assert "mend" in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(
    config: Path, running: tuple[dict[str, Any], subprocess.Popen[str]]
) -> None:
    done = run("--config", str(config))
    assert done.returncode == 1
    assert "held by" in done.stderr and "Traceback" not in done.stderr
