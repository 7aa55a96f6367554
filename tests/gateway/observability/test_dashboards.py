"""Every expression of every dashboard, evaluated by a real Prometheus that scrapes a real run."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from observability.dashboards import FOLDER
from observability.dashboards.gpu import GPU_METRICS
from observability.otlp import Receiver
from tests.gateway.conftest import open_door
from tests.gateway.envoy.certificates import Authority
from tests.gateway.guards.conftest import BINARY as REDIS
from tests.gateway.guards.conftest import Redis
from tests.gateway.observability import rules
from tests.gateway.observability.prometheus import Prometheus, running_prometheus
from tests.gateway.observability.traffic import AT_ONCE, FORBIDDEN, REQUESTS_A_MINUTE, Traffic
from tritonforge.server import TritonServer
from tritonforge.server.ports import free_ports

VARIABLES = {
    "$__rate_interval": "10m",  # the whole run
    "$percentile": "0.99",
    "$instance": ".+",
    "$model": ".+",
    "$gpu": ".+",
}
ANNOTATION = "what is marked on curves"
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
        exemplars: Whether single requests are shown.
    """

    board: str
    panel: str
    text: str
    exemplars: bool

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
                text = fill_in(target["expr"])
                yield Expression(path.stem, panel["title"], text, target.get("exemplar", False))
        for annotation in board["annotations"]["list"]:
            yield Expression(path.stem, ANNOTATION, annotation["expr"], False)


@dataclass(frozen=True)
class Observed:
    """A run, and who watches.

    Attributes:
        prometheus: Scrapes Triton, Envoy and the facade.
        receiver: Got the traces.
    """

    prometheus: Prometheus
    receiver: Receiver


@pytest.fixture(scope="module")
def observed(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """After all kinds of traffic; all servers still live, but for Redis."""
    if REDIS is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    folder = tmp_path_factory.mktemp("observed")
    authority = Authority()
    ca = authority.write(folder / "ca.pem")
    certificate, key = authority.issue(folder, "door")
    with contextlib.ExitStack() as stack:
        redis = Redis(folder)
        redis.start()
        stack.callback(redis.kill)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TRITONFORGE_REDIS_URL", redis.url)
        receiver = stack.enter_context(Receiver())
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
            "tracing": {"endpoint": receiver.url, "sampling_percent": 100},
        }
        door = stack.enter_context(open_door([triton], folder, **sections))
        targets = {
            "triton": [triton.metrics_url.split("/")[2]],
            "gateway": [door.metrics_url.split("/")[2]],
        }
        prometheus = stack.enter_context(running_prometheus(folder, targets))
        traffic = Traffic(door, ca)
        stack.callback(traffic.close)
        prometheus.wait_for_scrapes()
        for name in ("red", "green"):  # rates need a second time, after the first was seen
            traffic.round(name)
            prometheus.wait_for_scrapes()
        redis.kill()
        assert traffic.once() == 200
        stack.enter_context(traffic.socket("open"))
        prometheus.wait_for_scrapes()
        yield Observed(prometheus, receiver)


def values(prometheus: Prometheus, expression: Expression) -> list[float]:
    found = prometheus.ask("/api/v1/query", query=expression.text)
    assert found["resultType"] == "vector"
    return [float(sample["value"][1]) for sample in found["result"]]


def complaint(expression: Expression, found: list[float], *, calm: bool) -> str | None:
    if expression.needs_gpu or expression.panel == ANNOTATION:
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


def test_every_expression_has_data(observed: Observed) -> None:
    asked = list(expressions())
    assert len(asked) > 100
    deadline = time.monotonic() + 90
    while True:
        found = {expression: values(observed.prometheus, expression) for expression in asked}
        wrong = complaints(found)
        if not wrong or time.monotonic() > deadline:
            break
        time.sleep(1)
    report = [
        f"{e.board}: {e.panel}: {len(samples)} samples{f', {wrong[e]}' if e in wrong else ''}: {e.text}"
        for e, samples in sorted(found.items(), key=lambda item: item[0] not in wrong)
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(asked)} expressions:", *report])


def test_points_on_latency_lead_to_traces(observed: Observed) -> None:
    shown = [expression for expression in expressions() if expression.exemplars]
    assert len(shown) > 5
    now = time.time()
    found: dict[Expression, set[str]] = {}
    for expression in shown:
        series = observed.prometheus.ask(
            "/api/v1/query_exemplars", query=expression.text, start=str(now - 600), end=str(now)
        )
        found[expression] = {e["labels"]["trace_id"] for each in series for e in each["exemplars"]}
    assert not [expression for expression, traces in found.items() if not traces]
    wanted = set.union(*found.values())
    received = observed.receiver.wait(lambda spans: wanted <= {span.trace_id for span in spans}, 120)
    assert wanted <= {span.trace_id for span in received}


def test_what_variables_offer_is_there(observed: Observed) -> None:
    offered = [
        (path.stem, *re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups())
        for path in sorted(FOLDER.glob("*.json"))
        for variable in json.loads(path.read_text())["templating"]["list"]
        if variable["type"] == "query"
    ]
    assert {name for *_, name in offered} >= {"instance", "model"}
    for board, selector, label in offered:
        series = observed.prometheus.ask("/api/v1/series", **{"match[]": selector})
        assert board == "gpu" or any(entry.get(label) for entry in series), (board, selector)


def test_every_metric_that_rules_read_is_scraped(observed: Observed) -> None:
    scraped = set(observed.prometheus.ask("/api/v1/label/__name__/values"))
    assert len(rules.metrics_read()) > 50
    assert rules.metrics_read() - rules.SHOWN_ELSEWHERE <= scraped
    assert "envoy_cluster_grpc_0" in scraped


def test_every_rule_can_be_evaluated(observed: Observed) -> None:
    groups = observed.prometheus.ask("/api/v1/rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(list(rules.rules()))
    assert [rule for rule in found if rule["health"] != "ok"] == []
