"""``GET /stats``."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from gateway.identity import SCOPES_HEADER
from tests.gateway.conftest import FacadeApp, open_door
from tests.gateway.facade.conftest import wait_until
from tritonforge.server import ServerOptions, TritonServer


async def test_figures_follow_what_happens(facade_app: FacadeApp) -> None:
    async with facade_app() as running:

        async def read() -> Any:
            return (await running.client.get("/stats")).json()["models"]

        looked = time.monotonic()
        before = await read()
        assert set(before) == {"embed", "sort", "tinygen"}
        assert before["embed"]["requests_per_s"] is None  # looked at once
        texts = [f"text {number}" for number in range(8)]
        await running.client.post("/embed/batch", json={"texts": texts})
        await running.client.post("/embed", json={"text": "one more"})
        again = await read()
        # A look is kept for a second, which the requests may have taken on a busy machine.
        assert again == before or time.monotonic() - looked > 1
        await asyncio.sleep(1.05)
        after, seconds = await read(), time.monotonic() - looked
    embed = after["embed"]
    assert embed["requests"] - before["embed"]["requests"] == 2
    # Both looks took some time themselves.
    assert 2 / seconds - 0.01 <= embed["requests_per_s"] < 2.1
    assert embed["batch_size"] == 4.5  # of 8 and of 1
    assert embed["compute_ms"] > 0
    assert embed["queue_ms"] >= 0
    assert after["sort"]["requests_per_s"] == 0
    assert after["sort"]["batch_size"] is None


async def test_only_models_that_the_caller_may_use(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        answer = await running.client.get("/stats", headers={SCOPES_HEADER: "embed model:sort"})
    assert list(answer.json()["models"]) == ["sort"]


def test_servers_of_a_pool_are_told_apart(
    triton: TritonServer, gateway_repository: Path, tmp_path: Path
) -> None:
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, engine_threads=1, models=("sort",))
    with TritonServer(gateway_repository, options) as fresh:
        # Hundreds behind the other: compared with it, its counters would fall or leap.
        with httpx.Client(base_url=f"http://{triton.http_address}", timeout=60) as client:
            inputs = [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}]
            for _ in range(100):
                client.post("/v2/models/sort/infer", json={"inputs": inputs}).raise_for_status()
        with (
            open_door([triton, fresh], tmp_path) as door,
            httpx.Client(
                base_url=door.url, headers=door.headers("classify model:sort"), timeout=60
            ) as client,
        ):
            wait_until(lambda: client.get("/ready").status_code == 200)
            for _ in range(5):
                figures = client.get("/stats").json()["models"]["sort"]
                assert (figures["requests_per_s"] or 0) < 5
                time.sleep(1.01)
            assert figures["requests_per_s"] is not None
