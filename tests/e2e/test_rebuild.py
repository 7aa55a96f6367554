"""A new version is published under a running server."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from clients import Client
from clients.errors import ClientError
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.watchdog import scan_stubs

MODEL = "bert-embedding"
TEXTS = ["A door opens by itself.", "rain", "the council said"]


@pytest.fixture
def rebuild(
    tiny_build: Callable[[str, str], Any], build_recipe: Callable[..., Any], tmp_path: Path
) -> Callable[..., Any]:
    """Publishes the tiny model, already exported, with other settings."""
    keys = tiny_build("bert", "embedding").context.recipe.model_dump()
    return lambda **changes: build_recipe(into=tmp_path / "repository", **{**keys, **changes})


@pytest.fixture
def server(rebuild: Callable[..., Any], tmp_path: Path) -> Iterator[TritonServer]:
    rebuild()
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with (
        (tmp_path / "server.log").open("wb") as log,
        TritonServer(tmp_path / "repository", options, log_sink=log) as running,
    ):
        yield running


def test_the_running_server_answers_on(
    server: TritonServer, rebuild: Callable[..., Any], tmp_path: Path
) -> None:
    stop = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        with Client(server.grpc_url, MODEL) as client:
            while not stop.is_set():
                answers.append(client.embed(TEXTS))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for size in (4, 8, 16):
                rebuild(batching={"max_batch_size": size})
                seen = len(answers)
                while len(answers) < seen + 20 and not asking.done():
                    time.sleep(0.01)
        finally:
            stop.set()
        asking.result()
    versions = {
        path.name for path in (tmp_path / "repository" / f"{MODEL}_engine").iterdir() if path.is_dir()
    }
    assert versions == {"3", "4"}
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)


def test_the_next_start_serves_the_new_version(
    server: TritonServer, rebuild: Callable[..., Any], tmp_path: Path
) -> None:
    with Client(server.grpc_url, MODEL) as client:
        before = client.embed(TEXTS)
    rebuild(batching={"max_batch_size": 4})
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with (
        (tmp_path / "second.log").open("wb") as log,
        TritonServer(tmp_path / "repository", options, log_sink=log) as second,
        Client(second.grpc_url, MODEL) as client,
    ):
        assert client.metadata().max_batch_size == 4
        assert client.metadata().versions == ("2",)
        np.testing.assert_allclose(client.embed(TEXTS), before, atol=1e-5)


def test_a_stub_that_dies_after_a_rebuild_comes_back(
    server: TritonServer, rebuild: Callable[..., Any]
) -> None:
    """Its files must still be there."""
    with Client(server.grpc_url, MODEL, timeout=30) as client:
        before = client.embed(TEXTS)
        rebuild(batching={"max_batch_size": 4})
        for stub in scan_stubs(server.pid)[0]:
            os.kill(stub.pid, signal.SIGKILL)
        end = time.monotonic() + 300
        while True:
            try:
                np.testing.assert_allclose(client.embed(TEXTS), before, atol=1e-5)
                break
            except ClientError:
                assert time.monotonic() < end, "\n".join(server.log_tail()[-20:])
                time.sleep(0.5)
    while _restarts(server) < 2:  # tokenizer and engine; told in the background
        assert time.monotonic() < end
        time.sleep(0.1)


def _restarts(server: TritonServer) -> int:
    lines = httpx.get(server.metrics_url, timeout=60, trust_env=False).text.splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("tritonforge_stub_restarts_total{"))
