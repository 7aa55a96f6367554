"""A real Prometheus with the project's own configuration, faster and on other ports."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import CHECKOUT
from tritonforge.server.ports import free_ports

BINARY = shutil.which("prometheus")
CONFIGURATION = CHECKOUT / "docker" / "prometheus"
INTERVAL_S = 1


@dataclass(frozen=True)
class Prometheus:
    """One that runs.

    Attributes:
        client: Of its HTTP API.
        log: What it wrote.
    """

    client: httpx.Client
    log: Path

    def ask(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer; an expression that is none fails with Prometheus' own words."""
        body = self.client.get(path, params=parameters).json()
        assert body["status"] == "success", f"{parameters}: {body.get('error')}"
        return body["data"]

    def wait_for_scrapes(self) -> None:
        """Until each target was asked again, whole, after this moment."""
        begun = time.time()
        deadline = time.monotonic() + 120
        while True:
            targets = self.ask("/api/v1/targets", state="active")["activeTargets"]
            seen = [target for target in targets if scraped_after(target, begun)]
            if targets and len(seen) == len(targets):
                return
            assert time.monotonic() < deadline, [
                (target["scrapeUrl"], target["health"], target["lastError"]) for target in targets
            ]
            time.sleep(0.1)


def scraped_after(target: Mapping[str, Any], moment: float) -> bool:
    """Whether a scrape that began after a moment succeeded."""
    return target["health"] == "up" and datetime.fromisoformat(target["lastScrape"]).timestamp() > moment


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """Start one, and stop it at the end.

    Args:
        folder: For its configuration, data and log.
        targets: Addresses of each file of ``docker/prometheus/targets``.
    """
    if BINARY is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    _configure(folder, targets)
    (port,) = free_ports(1)
    log = folder / "prometheus.log"
    command = [
        BINARY,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):
        try:
            deadline = time.monotonic() + 120
            while not _ready(client):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield Prometheus(client, log)
        finally:
            process.terminate()
            process.wait(60)


def _configure(folder: Path, targets: Mapping[str, Sequence[str]]) -> None:
    config = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text())
    names = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    config["global"] |= dict.fromkeys(names, f"{INTERVAL_S}s")
    del config["alerting"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules").mkdir()
    for path in sorted((CONFIGURATION / "rules").glob("*.yml")):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "rules" / path.name).write_text(yaml.safe_dump(rules))
    (folder / "targets").mkdir()
    for name, addresses in targets.items():
        (folder / "targets" / f"{name}.yml").write_text(yaml.safe_dump([{"targets": list(addresses)}]))


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False
