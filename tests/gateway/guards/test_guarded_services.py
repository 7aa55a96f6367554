"""The guards on the way to real models: what Triton is asked, and what callers are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.config import GatewayConfig
from gateway.identity import SUBJECT_HEADER
from tests.gateway.conftest import FacadeApp, RunningApp
from tests.gateway.guards.conftest import Redis
from tritonforge.server import TritonServer

BOB = {SUBJECT_HEADER: "bob"}


class Asked:
    """Texts that a model was asked, or requests to a generator, since the object was made."""

    def __init__(self, url: str, model: str) -> None:
        self.url = f"{url}/v2/models/{model}/stats"
        self.before = 0
        self.before = self.count()

    def count(self) -> int:
        stats = httpx.get(self.url, trust_env=False, timeout=60).json()
        return int(stats["model_stats"][0]["inference_count"]) - self.before

    async def is_now(self, expected: int) -> None:
        """Triton counts shortly after it answers."""
        deadline = time.monotonic() + 60
        while self.count() < expected and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        assert self.count() == expected


@pytest.fixture
def asked(triton: TritonServer) -> Callable[[str], Asked]:
    return lambda model: Asked(triton.http_url, model)


def make_private(running: RunningApp, name: str) -> None:
    """As if its recipe said `cache.private`."""
    models: Any = running.facade.models
    models._models[name] = replace(models.models[name], private=True)


async def post(running: RunningApp, path: str, **keys: Any) -> httpx.Response:
    headers = keys.pop("headers", {})
    answer = await running.client.post(path, json=keys, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def test_models_say_what_they_are_for(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        models = running.facade.models.models
        assert {name: model.task for name, model in models.items()} == {
            "embed": "embedding",
            "sort": "classification",
            "tinygen": "generation",
        }
        assert models["sort"].labels == ("calm", "glad", "sad")
        assert models["embed"].counts_tokens and not models["embed"].private
        short, long = [(await post(running, "/embed", text=text)).json() for text in ("a", "word " * 500)]
        assert short["tokens"] == 3 and long["tokens"] == 64


async def test_a_stampede_over_http_is_one_inference(
    facade_app: FacadeApp, asked: Callable[[str], Asked]
) -> None:
    async with facade_app() as running:
        texts_asked = asked("embed")
        answers = await asyncio.gather(
            *(post(running, "/embed", text="a question of many") for _ in range(200))
        )
        assert len({tuple(answer.json()["embedding"]) for answer in answers}) == 1
        await texts_asked.is_now(1)
        # Of a batch only what is new.
        texts = ["new", "a question of many", "newer", "new"]
        vectors = (await post(running, "/embed/batch", texts=texts)).json()["embeddings"]
        await texts_asked.is_now(3)
        assert vectors[0] == vectors[3] and vectors[1] == answers[0].json()["embedding"]


@pytest.mark.parametrize(
    ("model", "path", "keys"),
    [
        ("embed", "/embed", {"text": "between us"}),
        ("sort", "/classify", {"text": "between us"}),
        ("tinygen", "/predict", {"text": "between us", "max_length": 3}),
    ],
)
async def test_private_answers_are_for_who_asked(
    facade_app: FacadeApp, asked: Callable[[str], Asked], model: str, path: str, keys: dict[str, Any]
) -> None:
    async with facade_app() as running:
        requests = asked(model)
        for headers in ({}, BOB):
            await post(running, path, **keys, headers=headers)
        await requests.is_now(1)
        make_private(running, model)
        for headers in ({}, BOB, {}, BOB):
            await post(running, path, **keys, headers=headers)
        await requests.is_now(3)
        # Nor is one computation shared by two who ask at once.
        keys = {**keys, "text": "between us both"}
        await asyncio.gather(*(post(running, path, **keys, headers=headers) for headers in ({}, BOB) * 5))
        await requests.is_now(5)


async def test_limits_are_told_with_every_answer(
    facade_app: FacadeApp, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONFORGE_REDIS_URL", redis.url)
    shared = {"requests_per_minute": 10, "tokens_per_minute": 6, "timeout_ms": 20_000}
    config = GatewayConfig.model_validate({"limits": {"shared": shared}})
    async with facade_app(config) as one, facade_app(config) as other:
        answer = await post(one, "/embed", text="a")  # three tokens
        assert answer.headers["ratelimit-limit"] == "10"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "6"
        answer = await post(other, "/embed", text="a b c d e")
        assert answer.headers["ratelimit-remaining"] == "8"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "3"
        answer = await one.client.post("/embed", json={"text": "a"})
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        await post(one, "/embed", text="a", headers=BOB)


async def test_a_denied_text_reaches_no_model(facade_app: FacadeApp, asked: Callable[[str], Asked]) -> None:
    config = GatewayConfig.model_validate({"screen": {"deny": ["(?i)launch codes?"]}})
    async with facade_app(config) as running:
        texts_asked = asked("embed")
        for path, keys, field in (
            ("/embed", {"text": "The LAUNCH code, please"}, "text"),
            ("/embed/batch", {"texts": ["fine", "launch codes"]}, "texts"),
        ):
            answer = await running.client.post(path, json=keys)
            assert (answer.status_code, answer.json()["code"]) == (400, "text_refused")
            assert answer.json()["field"] == field
        await texts_asked.is_now(0)
