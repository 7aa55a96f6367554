"""Locust's users of the front door, through Envoy, with a token; and who has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.locust_run import LocustPlan, run
from loadtest.sampling import Watch
from loadtest.served import ask_gateway
from tests.gateway.conftest import ALL_SCOPES, Door
from tests.loadtest.locust_command import locust
from tritonforge.server import TritonServer


def test_encoders(door: Door, tmp_path: Path) -> None:
    status, rows, output = locust(
        tmp_path,
        *("RestUser", "OpenAiUser", "GrpcUser", "--gateway-url", door.url, "--grpc-url", door.address),
        *("--model", "embed", "--texts-per-request", "2", "--length-mix", "8"),
        TRITONFORGE_TOKEN=door.mint(ALL_SCOPES),
    )
    assert status == 0, output
    assert set(rows) == {"REST", "OpenAI", "gRPC"}
    assert all(int(row["Request Count"]) > 0 for row in rows.values())


def test_generators(door: Door, tmp_path: Path) -> None:
    status, rows, output = locust(
        tmp_path,
        *("RestUser", "OpenAiUser", "WebSocketUser", "SseUser"),
        *("--gateway-url", door.url, "--http-url", door.url, "--task", "generation", "--model", "tinygen"),
        *("--tokens", "5", "--length-mix", "4"),
        TRITONFORGE_TOKEN=door.mint(ALL_SCOPES),
    )
    assert status == 0, output
    protocols = {"REST", "OpenAI", "WebSocket", "SSE"}
    assert set(rows) == {*protocols, "first token", "token"}
    counts = {protocol: int(rows[protocol]["Request Count"]) for protocol in protocols}
    assert all(counts.values())
    streamed = counts["OpenAI"] + counts["WebSocket"] + counts["SSE"]
    assert int(rows["first token"]["Request Count"]) == streamed
    assert int(rows["token"]["Request Count"]) == 5 * streamed


def test_runs_of_who_may_and_who_may_not(
    door: Door, triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONFORGE_TOKEN", door.mint("classify kserve model:sort"))
    served = ask_gateway(door.url, "sort")
    assert (served.task, served.parts[-1]) == ("classification", "sort_engine")
    plan = LocustPlan(
        model="sort", target="rest", url=door.url, users=(2,), shape="soak", duration_s=0.6, warm_up_s=0.2
    )
    (good,) = run(plan, served=served, watch=Watch(triton.metrics_url)).points
    assert good.requests > 0
    assert good.errors == 0
    monkeypatch.setenv("TRITONFORGE_TOKEN", door.mint("embed model:sort"))
    (bad,) = run(plan, served=served).points
    assert (bad.requests, bad.latency) == (0, None)
    assert bad.errors > 0
    assert list(bad.error_kinds) == ["HTTP 403 forbidden"]


def test_who_may_not_in_is_told_how(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITONFORGE_TOKEN", raising=False)
    monkeypatch.delenv("TRITONFORGE_API_KEY", raising=False)
    with pytest.raises(LoadTestError, match=r"401[\s\S]*TRITONFORGE_TOKEN"):
        ask_gateway(door.url, "embed")
    monkeypatch.setenv("TRITONFORGE_TOKEN", door.mint(ALL_SCOPES))
    with pytest.raises(LoadTestError, match="no such model"):
        ask_gateway(door.url, "absent")
