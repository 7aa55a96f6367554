"""What callers send stands in no log, whatever goes wrong; the id of their request stands in all."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException
from websockets.asyncio.client import connect

from gateway.control.levels import ask
from gateway.errors import GatewayError
from gateway.paths import RunPaths
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from tests.gateway.conftest import Door, open_door
from tests.gateway.grpc.test_service import embed
from tritonforge.server import TritonServer
from tritonforge.server.json_logs import JsonLines

TRACE = uuid.uuid4().hex


@pytest.fixture
def marker() -> str:
    return f"marker{uuid.uuid4().hex}"


@pytest.fixture
def client(door: Door) -> httpx.Client:
    return httpx.Client(base_url=door.url, headers=door.headers(), timeout=60)


def soon(found: Callable[[], Any]) -> Any:
    """What is found at last: lines are some time under way."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.1)
    raise AssertionError("no such line")


def gateway_lines(door: Door, request_id: str) -> list[dict[str, Any]]:
    lines = (line for line in door.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in map(json.loads, lines) if line.get("request_id") == request_id]


def backend_lines(triton: TritonServer, request_id: str) -> list[dict[str, Any]]:
    form = JsonLines()
    made = [json.loads(line) for raw in triton.log_tail() for line in form(raw)]
    return [line for line in made if line.get("request_id") == request_id]


def everything(door: Door, triton: TritonServer) -> str:
    return door.log.read_text() + "\n".join(triton.log_tail())


def test_http(door: Door, triton: TritonServer, client: httpx.Client, marker: str) -> None:
    chat = {"model": "tinygen", "messages": [{"role": "user", "content": marker}], "max_tokens": 2}
    asked: list[tuple[str, Any, int]] = [
        (f"/embed?q={marker}", {"text": marker}, 200),
        ("/embed", {"text": marker, marker: marker}, 400),
        ("/embed", {"text": marker + "x" * (1 << 20)}, 400),
        ("/classify", {"text": marker, "model": marker}, 404),
        ("/predict", {"text": marker, "max_length": 100_000}, 400),
        ("/v1/embeddings", {"model": "embed", "input": [marker, 7]}, 400),
        ("/v1/chat/completions", chat, 200),
        ("/v1/chat/completions", {**chat, "stream": True}, 200),
        ("/v1/chat/completions", {**chat, "max_tokens": marker}, 400),
        ("/v2/models/tinygen/generate", {"text_input": marker, "temperature": -5}, 400),
        ("/v2/models/tinygen/generate", {"messages": json.dumps([{"role": marker}])}, 400),
        ("/v2/models/tinygen/generate_stream", {"text_input": marker, "max_tokens": 2, "stream": True}, 200),
    ]
    for number, (path, body, status) in enumerate(asked):
        answer = client.post(path, json=body, headers={"x-request-id": f"{marker[-8:]}-{number}"})
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["x-request-id"] == f"{marker[-8:]}-{number}"
    kind = {"content-type": "application/json"}
    assert client.post("/embed", content=f'{{"text": "{marker}', headers=kind).status_code == 400
    soon(lambda: gateway_lines(door, f"{marker[-8:]}-{len(asked) - 1}"))
    assert marker not in everything(door, triton)


def test_a_kserve_request_is_named_all_the_way(
    door: Door, triton: TritonServer, client: httpx.Client, marker: str
) -> None:
    name = f"way-{marker[-8:]}"
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [marker + "x" * (1 << 20)]}
    answer = client.post("/v2/models/embed/infer", json={"inputs": [tensor]}, headers={"x-request-id": name})
    assert answer.status_code == 400
    (refused,) = soon(lambda: backend_lines(triton, name))
    assert (refused["event"], refused["component"], refused["level"]) == (
        "request_refused",
        "backend",
        "info",
    )
    assert (refused["model"], refused["reason"]) == ("embed_tokenizer", "too_large")
    (line,) = soon(lambda: gateway_lines(door, name))
    assert (line["component"], line["event"]) == ("envoy", "request")
    assert (line["model"], line["status"]) == ("embed", 400)
    assert marker not in everything(door, triton)


def test_the_trace_is_named_all_the_way(triton: TritonServer, tmp_path: Path, marker: str) -> None:
    # Nobody collects the spans.
    tracing = {"endpoint": "http://127.0.0.1:1", "trust_callers": True}
    with open_door([triton], tmp_path, tracing=tracing) as door:
        parent = f"00-{TRACE}-00f067aa0ba902b7-01"
        headers = {**door.headers(), "traceparent": parent, "x-request-id": f"trace-{marker[-8:]}"}
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["x" * (1 << 21)]}
        url = f"{door.url}/v2/models/embed/infer"
        assert httpx.post(url, json={"inputs": [tensor]}, headers=headers, timeout=60).status_code == 400
        (line,) = soon(lambda: gateway_lines(door, headers["x-request-id"]))
    (refused,) = soon(lambda: backend_lines(triton, headers["x-request-id"]))
    assert line["trace_id"] == refused["trace_id"] == TRACE


def test_a_request_of_the_facade_is_named_all_the_way(
    door: Door, triton: TritonServer, client: httpx.Client, marker: str
) -> None:
    # Only the generator knows how many tokens that is.
    name = f"way-{marker[-8:]}"
    answer = client.post("/predict", json={"text": marker * 40}, headers={"x-request-id": name})
    assert answer.status_code == 400, answer.text
    (refused,) = soon(lambda: backend_lines(triton, name))
    assert (refused["event"], refused["model"], refused["reason"]) == (
        "request_refused",
        "tinygen",
        "invalid",
    )
    assert soon(lambda: gateway_lines(door, name))
    assert marker not in everything(door, triton)


def test_grpc(door: Door, triton: TritonServer, marker: str) -> None:
    name = f"grpc-{marker[-8:]}"
    headers = {**door.headers(), "x-request-id": name}
    with triton_grpc.InferenceServerClient(door.address) as raw:
        tensor = triton_grpc.InferInput("text", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[marker.encode() + b"\xff"]], dtype=object))
        with pytest.raises(InferenceServerException):
            raw.infer("embed", [tensor], headers=headers)

    async def ours() -> None:
        async with grpc.aio.insecure_channel(door.address, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = ModelServiceStub(channel)
            await stub.Predict(embed(marker), metadata=tuple(headers.items()))
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Predict(embed(marker, model=marker), metadata=tuple(headers.items()))

    asyncio.run(ours())
    (refused,) = soon(lambda: backend_lines(triton, name))
    assert (refused["model"], refused["reason"]) == ("embed_tokenizer", "invalid_utf8")
    soon(lambda: len(gateway_lines(door, name)) == 3)
    assert marker not in everything(door, triton)


async def test_websocket(door: Door, triton: TritonServer, marker: str) -> None:
    name = f"ws-{marker[-8:]}"
    headers = {**door.headers(), "x-request-id": name}
    async with connect(f"ws://{door.address}/ws/generate?q={marker}", additional_headers=headers) as socket:
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == name
        for message in (
            {"prompt": marker, "max_tokens": 2},
            {"prompt": marker, marker: 1},
            {"prompt": marker, "model": marker},
            {"prompt": marker * 40, "max_tokens": 2},
        ):
            await socket.send(json.dumps(message))
            frame = json.loads(await socket.recv())
            while not (frame.get("is_final") or "error" in frame):
                frame = json.loads(await socket.recv())
    await asyncio.to_thread(soon, lambda: backend_lines(triton, name))
    assert await asyncio.to_thread(soon, lambda: gateway_lines(door, name))
    assert marker not in everything(door, triton)


def test_levels_of_a_running_gateway_change(door: Door, client: httpx.Client) -> None:
    paths = RunPaths(door.run_folder)
    before = ask(paths)
    assert before == {"facade": "info", "supervisor": "info", "envoy": "warning"}
    try:
        assert ask(paths, "envoy", "error")["envoy"] == "error"
        transport = httpx.HTTPTransport(uds=str(paths.admin))
        with httpx.Client(transport=transport, base_url="http://envoy") as admin:
            assert "main: error" in admin.post("/logging").text
        assert ask(paths, "facade", "debug")["facade"] == "debug"
        for component, level in (("facade", "loud"), ("triton", "info")):
            with pytest.raises(GatewayError, match=component):
                ask(paths, component, level)
    finally:
        for component, level in before.items():
            ask(paths, component, level)
    # Nobody gets at them through the door, nor at Triton's.
    for path in ("/internal/log-level?level=debug", "/v2/logging"):
        assert client.post(path, json={"log_info": False}).status_code == 404
