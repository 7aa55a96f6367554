"""``tritonforge trace``, as a person runs it: with a server and a gateway of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "tritonforge.cli", "trace")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_through_a_gateway_beside_others_and_over_a_threshold(gateway_repository: Path) -> None:
    repository = ("--repository", str(gateway_repository), "--engine-threads", "1")
    load = ("--repeat", "3", "--load", "2", "--threshold-ms", "0.001")
    done = run("embed", "a text", *repository, "--through", "gateway", *load, "--json")
    assert done.returncode == 1, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["over_threshold"] == len(told["latencies_ms"]) >= 3
    assert told["answered_beside"] > 0
    names = [(span["depth"], span["name"]) for span in told["spans"]]
    for depth, name in (
        (0, "request"),
        (1, "/embed*"),
        (2, "POST /embed"),
        (3, "call ModelInfer"),
        (4, "InferRequest"),
        (5, "embed"),
        (6, "embed_engine"),
        (7, "queue"),
        (8, "encode"),
        (9, "forward"),
    ):
        assert (depth, name) in names
    root = told["spans"][0]
    assert min(abs(root["ms"] - latency) for latency in told["latencies_ms"]) < 0.001
    stages = [stage["ms"] for stage in told["stages"]]
    assert stages == sorted(stages, reverse=True)
    assert abs(sum(stages) - root["ms"]) < 0.001
    assert all(stage["hint"] for stage in told["stages"])


def test_an_unknown_model_is_refused_with_the_names_of_those_there(gateway_repository: Path) -> None:
    done = run("nosuch", "a text", "--repository", str(gateway_repository))
    assert done.returncode == 1
    assert "choose from: embed" in done.stderr


def test_an_address_to_listen_on_is_host_and_port() -> None:
    done = run("embed", "a text", "--listen", "4318")
    assert done.returncode == 2
    assert "HOST:PORT" in done.stderr
