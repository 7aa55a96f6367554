"""``/predict`` on the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.config import GatewayConfig
from python_backends.metrics import INTERVAL
from tests.gateway.conftest import FacadeApp
from tests.gateway.facade.conftest import ALICE, Served, wait_until
from tritonforge.server import TritonServer

SAMPLED = {"max_length": 12, "temperature": 1.5, "top_p": 0.95, "top_k": 50}


async def post(running: Any, path: str, body: dict[str, Any]) -> Any:
    answer = await running.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_predict(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        answer = await post(running, "/predict", {"text": "The sun", "max_length": 5})
        assert answer["tokens_generated"] == 5
        assert answer["finish_reason"] == "length"
        assert answer["model"] == "tinygen"
        assert answer["output"]
        assert answer["latency_ms"] > 0
        again = await post(running, "/predict", {"text": "The sun", "max_length": 5})
        assert again["output"] == answer["output"]
        ended = await post(
            running, "/predict", {"text": "The sun", "max_length": 5, "stop": [answer["output"][2]]}
        )
        assert ended["finish_reason"] == "stop"
        assert ended["output"] == answer["output"][: answer["output"].index(answer["output"][2])]


async def test_a_seed_is_kept_to(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        one, same, other = [
            (await post(running, "/predict", {"text": "The sun", "seed": seed, **SAMPLED}))["output"]
            for seed in (1, 1, 2)
        ]
    assert one == same
    assert one != other


async def test_a_batch_answers_each_by_itself(facade_app: FacadeApp) -> None:
    texts = ["The sun", "A dog and", "It was"]
    config = GatewayConfig.model_validate({"cache": {"enabled": False}})
    async with facade_app(config) as running:
        batch = await post(running, "/predict/batch", {"texts": texts, "max_length": 6})
        singles = [await post(running, "/predict", {"text": text, "max_length": 6}) for text in texts]
    assert [result["output"] for result in batch["results"]] == [single["output"] for single in singles]


async def test_one_bad_text_does_not_spoil_a_batch(facade_app: FacadeApp) -> None:
    config = GatewayConfig.model_validate({"limits": {"max_texts": 1000}})
    async with facade_app(config) as running:
        texts = ["The sun", "far too long " * 2000]
        batch = await post(running, "/predict/batch", {"texts": texts, "max_length": 4})
        good, bad = batch["results"]
        assert good["tokens_generated"] == 4
        assert (bad["error"]["code"], bad["error"]["status"]) == ("invalid_value", 400)
        answer = await running.client.post("/predict/batch", json={"texts": texts[1:], "max_length": 4})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_value")


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
async def test_who_leaves_frees_the_server(
    served: Served, finished: Callable[[str], int], triton: TritonServer, path: str
) -> None:
    texts = [f"Go on, {number}" for number in range(12)]
    how = {"max_length": 480, "temperature": 1.0}
    bodies = [{"texts": texts}] if path.endswith("batch") else [{"text": text} for text in texts]
    async with httpx.AsyncClient(headers=ALICE, base_url=served.url, timeout=60) as client:
        left_early = 0
        for _ in range(8):  # on a busy machine some come to their end before they are left
            before = finished("cancelled")
            requests = [asyncio.create_task(client.post(path, json=body | how)) for body in bodies]
            while not await asyncio.to_thread(at_work, triton) and not all(map(asyncio.Task.done, requests)):
                await asyncio.sleep(0.005)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            await asyncio.to_thread(wait_until, lambda: not at_work(triton))
            await asyncio.sleep(3 * INTERVAL)  # the generator adds to Triton's counters now and then only
            left_early = max(left_early, finished("cancelled") - before)
            if left_early > len(texts) // 2:
                break
    assert left_early > len(texts) // 2  # not only one of a batch


def at_work(triton: TritonServer) -> float:
    """How many generations run or wait, as Triton tells."""
    lines = httpx.get(triton.metrics_url, timeout=60).text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if "_running_sequences{" in line or "_waiting_requests{" in line
    )
