"""Every expression of every dashboard, evaluated by a real Prometheus that scrapes a real run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from observability.dashboards import FOLDER
from observability.dashboards.gpu import GPU_METRICS
from tests.gateway.conftest import open_door
from tests.gateway.envoy.certificates import Authority
from tests.gateway.guards.conftest import BINARY as REDIS
from tests.gateway.guards.conftest import Redis
from tests.gateway.observability.prometheus import Prometheus, running_prometheus
from tests.gateway.observability.traffic import AT_ONCE, FORBIDDEN, REQUESTS_A_MINUTE, Traffic
from tritonforge.server import TritonServer
from tritonforge.server.ports import free_ports

VARIABLES = {
    "$__rate_interval": "2m",  # the whole run
    "$percentile": "0.99",
    "$instance": ".+",
    "$model": ".+",
    "$gpu": ".+",
}
CALM = {
    "Alerts firing",
    "Breakers",
    "Connections to servers that failed",
    "Ejected servers",
    "Failed in Triton, by reason",
    "Firing alerts",
    "Fullest KV cache",
    "Fullest KV cache, by model",
    "KV cache in use",
    "Refused by breakers (503)",
    "Requests in flight, and waiting for a connection",
    "Running",
    "Sequences",
    "Stub restarts in an hour",
    "Timeouts",
    "Triton's response cache",
    "Waiting",
    "Waiting, by model",
}
"""Panels that may be all zero after a run in which nothing broke and nobody was overloaded."""


@dataclass(frozen=True)
class Expression:
    """One query of one panel.

    Attributes:
        board: Name of the file.
        panel: Its title.
        text: PromQL, variables filled in.
    """

    board: str
    panel: str
    text: str

    @property
    def needs_gpu(self) -> bool:
        return any(name in self.text for name in GPU_METRICS)


def fill_in(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    assert "$" not in text.replace(".+$", ""), text
    return text


def expressions() -> Iterator[Expression]:
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Expression(path.stem, panel["title"], fill_in(target["expr"]))


@pytest.fixture(scope="module")
def prometheus(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """After a run with all kinds of traffic; its servers still live, but for Redis."""
    if REDIS is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    folder = tmp_path_factory.mktemp("observed")
    authority = Authority()
    certificate, key = authority.issue(folder, "door")
    redis = Redis(folder)
    redis.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONFORGE_REDIS_URL", redis.url)
        server = {
            "http_port": int(triton.http_address.rpartition(":")[2]),
            "grpc_port": int(triton.grpc_url.rpartition(":")[2]),
        }
        nobody = dict(zip(server, free_ports(2), strict=True))
        sections = {
            "listen": {"port": 0, "tls": {"certificate": str(certificate), "key": str(key)}},
            "pools": [
                {"regions": [{"name": "near", "servers": [server]}, {"name": "dead", "servers": [nobody]}]}
            ],
            "limits": {
                "local": {"per_second": 1, "burst": AT_ONCE},
                "address": None,
                "shared": {"requests_per_minute": REQUESTS_A_MINUTE},
            },
            "screen": {"deny": [FORBIDDEN]},
        }
        ca = authority.write(folder / "ca.pem")
        try:
            with open_door([triton], folder, **sections) as door:
                targets = {
                    "triton": [triton.metrics_url.split("/")[2]],
                    "gateway": [door.metrics_url.split("/")[2]],
                }
                with running_prometheus(folder, targets) as prometheus:
                    traffic = Traffic(door, ca)
                    prometheus.wait_for_scrapes()
                    for name in ("red", "green"):  # rates need a second time, after the first was seen
                        traffic.round(name)
                        prometheus.wait_for_scrapes()
                    redis.kill()
                    assert traffic.once() == 200
                    with traffic.socket("open"):
                        prometheus.wait_for_scrapes()
                        yield prometheus
                    traffic.close()
        finally:
            redis.kill()


def values(prometheus: Prometheus, expression: Expression) -> list[float]:
    found = prometheus.ask("/api/v1/query", query=expression.text)
    assert found["resultType"] == "vector"
    return [float(sample["value"][1]) for sample in found["result"]]


def complaint(expression: Expression, found: list[float], *, calm: bool) -> str | None:
    if expression.needs_gpu:
        return None
    if not found:
        return "no data"
    if not all(math.isfinite(value) for value in found):
        return f"{sum(not math.isfinite(value) for value in found)} of {len(found)} are no number"
    return "all zero" if calm and expression.panel not in CALM else None


def complaints(found: dict[Expression, list[float]]) -> dict[Expression, str]:
    """What is wrong with which; where one line of a panel moved, others may be at zero."""
    moved = {(e.board, e.panel) for e, samples in found.items() if any(samples)}
    said = {e: complaint(e, samples, calm=(e.board, e.panel) not in moved) for e, samples in found.items()}
    return {e: text for e, text in said.items() if text}


def test_every_expression_has_data(prometheus: Prometheus) -> None:
    asked = list(expressions())
    assert len(asked) > 100
    deadline = time.monotonic() + 30
    while True:
        found = {expression: values(prometheus, expression) for expression in asked}
        wrong = complaints(found)
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(1)
    report = [
        f"{e.board}: {e.panel}: {len(samples)} samples{f', {wrong[e]}' if e in wrong else ''}: {e.text}"
        for e, samples in sorted(found.items(), key=lambda item: item[0] not in wrong)
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(asked)} expressions:", *report])
