"""REST, WebSocket and docs by way of the whole door."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gateway.identity import CLOCK_SKEW_S
from gateway.security.api_keys import ApiKeyStore
from tests.gateway.conftest import Door
from tests.gateway.facade.conftest import wait_until


def test_rest_and_stats(door: Door) -> None:
    with httpx.Client(base_url=door.url, headers=door.headers(), timeout=60) as client:
        assert client.post("/embed", json={"text": "hello"}).json()["model"] == "embed"
        assert client.post("/classify", json={"text": "hello"}).json()["label"] in ("calm", "glad", "sad")
        assert client.post("/predict", json={"text": "a", "max_length": 2}).json()["tokens_generated"] == 2
        time.sleep(1.05)  # figures are kept for a second
        figures = client.get("/stats").json()["models"]
    assert figures["tinygen"]["requests"] > 0


def test_docs_are_open_and_an_unknown_caller_is_not_let_in(door: Door) -> None:
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json", "/health"):
        assert httpx.get(door.url + path, timeout=60).status_code == 200, path
    for path in ("/predict", "/embed/batch", "/classify"):
        answer = httpx.post(door.url + path, json={}, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_streams(door: Door, finished: Callable[[str], int]) -> None:
    url = f"ws://{door.address}/ws/generate"
    cancelled = finished("cancelled")
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url):
            pass
    assert caught.value.response.status_code == 401
    # As a browser shows its token.
    token = door.headers()["authorization"].removeprefix("Bearer ")
    async with connect(url, subprotocols=["tritonforge.v1", f"bearer.{token}"]) as connection:
        assert connection.subprotocol == "tritonforge.v1"
        await connection.send(json.dumps({"prompt": "The sun", "max_tokens": 5}))
        frames = [json.loads(await connection.recv())]
        while not frames[-1]["is_final"]:
            frames.append(json.loads(await connection.recv()))
        assert frames[-1]["usage"]["completion_tokens"] == 5
        await connection.send(json.dumps({"prompt": "On", "max_tokens": 480, "ignore_eos": True}))
        await connection.recv()
        connection.transport.abort()
    await asyncio.to_thread(wait_until, lambda: finished("cancelled") > cancelled)
    assert finished("cancelled") == cancelled + 1


async def test_a_socket_does_not_outlive_its_key(door: Door) -> None:
    store = ApiKeyStore(door.folder / "keys.json")
    key = store.create(["generate", "model:*"], "socket")
    async with opened(door, {"x-api-key": key.key}) as connection:
        assert (await last_frame(connection))["finish_reason"] == "length"
        store.revoke(key.id)
        await is_shut(connection)


async def test_a_socket_does_not_outlive_its_token(door: Door) -> None:
    for seconds in (2, 10, 50):  # where the machine is busy, it may be over before the first frame comes
        token = door.mint("generate model:*", exp=int(time.time()) - CLOCK_SKEW_S + seconds)
        try:
            async with opened(door, {"authorization": f"Bearer {token}"}) as connection:
                first = await last_frame(connection)
                if "error" not in first:
                    assert first["finish_reason"] == "length"
                    await is_shut(connection)
                    return
                assert first["error"]["code"] == "unauthenticated"
        except InvalidStatus as refused:
            assert refused.response.status_code == 401
    pytest.fail("no token lived long enough")


def opened(door: Door, headers: dict[str, str]) -> connect:
    return connect(f"ws://{door.address}/ws/generate", additional_headers=headers, open_timeout=60)


async def is_shut(connection: ClientConnection) -> None:
    """Wait until its caller is no longer known."""
    async with asyncio.timeout(120):
        while "error" not in (frame := await last_frame(connection)):
            await asyncio.sleep(0.1)
    assert frame["error"]["code"] == "unauthenticated"


async def last_frame(connection: ClientConnection) -> Any:
    await connection.send(json.dumps({"prompt": "The sun", "max_tokens": 2}))
    while not (frame := json.loads(await connection.recv()))["is_final"]:
        pass
    return frame
