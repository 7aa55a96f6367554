"""``GET /stats``."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.identity import SCOPES_HEADER
from tests.gateway.conftest import FacadeApp


async def test_figures_follow_what_happens(facade_app: FacadeApp) -> None:
    async with facade_app() as running:

        async def read() -> Any:
            return (await running.client.get("/stats")).json()["models"]

        before = await read()
        assert set(before) == {"embed", "sort", "tinygen"}
        assert before["embed"]["requests_per_s"] is None  # looked at once
        texts = [f"text {number}" for number in range(8)]
        await running.client.post("/embed/batch", json={"texts": texts})
        await running.client.post("/embed", json={"text": "one more"})
        assert await read() == before  # within a second
        await asyncio.sleep(1.05)
        after = await read()
    embed = after["embed"]
    assert embed["requests"] - before["embed"]["requests"] == 2
    assert 0.5 < embed["requests_per_s"] < 2.1
    assert embed["batch_size"] == 4.5  # of 8 and of 1
    assert embed["compute_ms"] > 0
    assert embed["queue_ms"] >= 0
    assert after["sort"]["requests_per_s"] == 0
    assert after["sort"]["batch_size"] is None


async def test_only_models_that_the_caller_may_use(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        answer = await running.client.get("/stats", headers={SCOPES_HEADER: "embed model:sort"})
    assert list(answer.json()["models"]) == ["sort"]
