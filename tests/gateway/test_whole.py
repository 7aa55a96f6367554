"""The whole gateway, as its callers meet it: every protocol through Envoy, processes that die, a stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import openai
import psutil
import pytest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from websockets.asyncio.client import connect

from clients import Client, InvalidRequestError
from gateway.triton.tensors import text_request, unpack_outputs
from tests.gateway.conftest import Door, open_door
from tritonforge.server import TritonServer

TEXT = "A door opens by itself."


@pytest.fixture
def client(door: Door) -> httpx.Client:
    return httpx.Client(base_url=door.url, headers=door.headers(), trust_env=False, timeout=60)


def test_every_way_gives_the_same_vector(door: Door, client: httpx.Client) -> None:
    rest = np.array(client.post("/embed", json={"text": TEXT}).raise_for_status().json()["embedding"])
    api = openai.OpenAI(base_url=f"{door.url}/v1", api_key=door.mint("embed model:embed"))
    by_openai = np.array(api.embeddings.create(model="embed", input=TEXT).data[0].embedding)
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [TEXT]}
    raw = client.post("/v2/models/embed/infer", json={"inputs": [tensor]}).raise_for_status().json()
    by_http = np.array(next(each["data"] for each in raw["outputs"] if each["name"] == "embedding"))
    with grpc.insecure_channel(door.address, [("grpc.enable_http_proxy", 0)]) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(
            text_request("embed", "", [TEXT], ["embedding"]),
            metadata=list(door.headers().items()),
            timeout=60,
        )
    by_grpc = np.asarray(unpack_outputs(response)["embedding"])[0]
    for other in (by_openai, by_http, by_grpc):
        np.testing.assert_allclose(other, rest, atol=1e-5)


async def test_a_browser_s_socket_streams_what_the_openai_client_gets(door: Door) -> None:
    token = door.mint("generate model:tinygen")
    async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key=token) as api:
        stream = await api.completions.create(
            model="tinygen", prompt=TEXT, max_tokens=12, temperature=0, stream=True
        )
        streamed = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    url = door.url.replace("http", "ws") + "/ws/generate"
    async with connect(url, subprotocols=["tritonforge.v1", f"bearer.{token}"], proxy=None) as socket:
        assert socket.subprotocol == "tritonforge.v1"
        await socket.send(json.dumps({"prompt": TEXT, "max_tokens": 12}))
        frames = []
        while not frames or not frames[-1]["is_final"]:
            frames.append(json.loads(await socket.recv()))
    assert "".join(frame.get("token", "") for frame in frames) == streamed


def test_our_own_client_generates_through_the_door(door: Door) -> None:
    with Client(door.address, "tinygen", headers=door.headers()) as own:
        whole = own.generate(TEXT, max_tokens=12)
        assert "".join(piece.text for piece in own.stream(TEXT, max_tokens=12)) == whole.text
        with pytest.raises(InvalidRequestError, match="leave no room"):
            own.generate("word " * 5000)


async def test_two_hundred_sockets_of_whom_a_third_vanish(door: Door) -> None:
    url = door.url.replace("http", "ws") + "/ws/generate"
    ask = json.dumps({"prompt": TEXT, "max_tokens": 20, "temperature": 1, "ignore_eos": True})
    async with contextlib.AsyncExitStack() as stack:
        sockets = []
        for _ in range(200):
            opened = connect(
                url, additional_headers=door.headers(), proxy=None, ping_interval=None, open_timeout=60
            )
            sockets.append(await stack.enter_async_context(opened))
            await sockets[-1].send(ask)
        for socket in sockets[::3]:
            socket.transport.abort()
        for socket in (s for n, s in enumerate(sockets) if n % 3):
            while not json.loads(await socket.recv())["is_final"]:
                pass
        await asyncio.gather(*(socket.close() for socket in sockets))
    deadline = time.monotonic() + 60
    while (line := _in_flight(door, "websocket")) and not line.endswith(" 0.0"):
        assert time.monotonic() < deadline, line
        await asyncio.sleep(0.05)


def test_metrics_and_what_is_internal_are_behind_the_door(door: Door, client: httpx.Client) -> None:
    for path in (
        "/metrics",
        "/internal/admit",
        "/internal/jwks/company",
        "/v2/repository/index",
        "/stats/prometheus",
    ):
        assert client.get(path).status_code in (403, 404), path
    client.post("/embed", json={"text": TEXT}).raise_for_status()
    facade = httpx.get(f"{door.metrics_url}/metrics", trust_env=False, timeout=60).text
    assert 'tritonforge_gateway_request_duration_seconds_count{code="200",method="/embed"' in facade
    assert (
        "envoy_http_downstream_rq_total"
        in httpx.get(f"{door.metrics_url}/metrics/envoy", trust_env=False).text
    )


def test_a_wanted_time_that_is_too_short_is_told(client: httpx.Client) -> None:
    answer = client.post(
        "/predict", json={"text": TEXT, "max_length": 400}, headers={"x-request-timeout-ms": "1"}
    )
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_a_facade_that_was_killed_comes_back(triton: TritonServer, tmp_path: Path) -> None:
    with open_door([triton], tmp_path) as door:
        (facade,) = _facades(door)
        facade.kill()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = httpx.post(
                f"{door.url}/embed", json={"text": TEXT}, headers=door.headers(), trust_env=False, timeout=60
            )
            if answer.is_success:
                break
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            time.sleep(0.1)
        assert answer.is_success


def test_a_stop_answers_what_is_in_flight(triton: TritonServer, tmp_path: Path) -> None:
    ask = {"text": TEXT, "max_length": 450, "temperature": 1.0, "seed": 3}
    with ThreadPoolExecutor(8) as pool:
        with open_door([triton], tmp_path) as door:
            headers = door.headers()
            asked = [
                pool.submit(
                    httpx.post, f"{door.url}/predict", json=ask, headers=headers, trust_env=False, timeout=60
                )
                for _ in range(8)
            ]
            deadline = time.monotonic() + 60
            while _reached(door) + sum(future.done() for future in asked) < len(asked):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert [future.result().status_code for future in asked] == [200] * 8
    assert not _facades(door)


def _reached(door: Door) -> int:
    """Requests over HTTP that are at work, but for the one that asks."""
    return int(float(_in_flight(door, "http").split()[-1])) - 1


def _in_flight(door: Door, protocol: str) -> str:
    lines = httpx.get(f"{door.metrics_url}/metrics", trust_env=False, timeout=60).text.splitlines()
    name = f'tritonforge_gateway_requests_in_flight{{protocol="{protocol}"}}'
    return next((line for line in lines if line.startswith(name)), "")


def _facades(door: Door) -> list[psutil.Process]:
    """Its facade processes that still run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if str(door.run_folder) in child.cmdline():
                found.append(child)
    return found


def test_two_workers_add_up(triton: TritonServer, tmp_path: Path) -> None:
    with open_door([triton], tmp_path, facade={"workers": 2}) as door:

        async def ask() -> None:
            async with httpx.AsyncClient(
                base_url=door.url, headers=door.headers(), trust_env=False, timeout=60
            ) as client:
                answers = await asyncio.gather(
                    *(client.post("/embed", json={"text": f"{TEXT} {n}"}) for n in range(40))
                )
            assert all(answer.is_success for answer in answers)

        asyncio.run(ask())
        for _ in range(3):
            lines = httpx.get(f"{door.metrics_url}/metrics", trust_env=False, timeout=60).text.splitlines()
            (counted,) = [
                line
                for line in lines
                if line.startswith("tritonforge_gateway_request_duration_seconds_count") and "/embed" in line
            ]
            assert float(counted.split()[-1]) == 40


@contextlib.asynccontextmanager
async def _sockets(door: Door, count: int) -> AsyncIterator[None]:
    """So many open WebSockets."""
    url = door.url.replace("http", "ws") + "/ws/generate"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            opened = connect(url, additional_headers=door.headers(), proxy=None, open_timeout=60)
            await stack.enter_async_context(opened)
        yield


async def test_a_worker_that_was_killed_counts_no_more(triton: TritonServer, tmp_path: Path) -> None:
    with open_door([triton], tmp_path, facade={"workers": 2}) as door:
        async with _sockets(door, 8):
            assert _in_flight(door, "websocket").endswith(" 8.0")
            for facade in _facades(door):
                facade.kill()
            deadline = time.monotonic() + 60
            while not _is_back(door):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert not _in_flight(door, "websocket").endswith(" 8.0")


async def test_while_a_worker_is_away_the_other_takes_all(triton: TritonServer, tmp_path: Path) -> None:
    with open_door([triton], tmp_path, facade={"workers": 2}) as door:
        away = _facades(door)[0]
        away.kill()
        # Until it has ended it may take a request, which nobody may send twice.
        await asyncio.to_thread(away.wait, 60)
        async with _sockets(door, 16):  # each leaves the living one with one more than the dead one has
            pass


def _is_back(door: Door) -> bool:
    return (
        httpx.get(f"{door.metrics_url}/metrics", trust_env=False, timeout=60).is_success
        and len(_facades(door)) == 2
    )
