"""What one socket does: requests, frames, faults, cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.gateway.facade.conftest import ALICE, Serve, Served
from tests.gateway.facade.websocket.conftest import LONG, ask, frames_of, opened

ATTEMPTS = 8
"""On a busy machine a short generation may have come to its end before it is cancelled."""


async def counted(count: Callable[[], int], beyond: int) -> None:
    async with asyncio.timeout(60):
        while count() <= beyond:
            await asyncio.sleep(0.05)


async def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, headers=ALICE, timeout=60) as client:
        whole = (await client.post("/predict", json={"text": "The sun", "max_length": 20})).json()
    async with opened(served) as connection:
        *tokens, final = await ask(connection, id="a", prompt="The sun", max_tokens=20)
    assert "".join(frame["token"] for frame in tokens) == whole["output"]
    assert len(tokens) > 1
    assert {frame["id"] for frame in [*tokens, final]} == {"a"}
    places = [(frame["index"], len(frame["token_ids"])) for frame in tokens]
    assert [index for index, _ in places] == [sum(n for _, n in places[:i]) for i in range(len(places))]
    assert final["is_final"] is True
    assert final["finish_reason"] == whole["finish_reason"]
    count = whole["tokens_generated"]
    assert final["usage"] == {
        "prompt_tokens": whole["prompt_tokens"],
        "completion_tokens": count,
        "total_tokens": whole["prompt_tokens"] + count,
    }
    assert 0 < final["ttft_ms"] <= final["latency_ms"]
    assert final["tokens_per_second"] > 0
    assert final["model"] == "tinygen"


async def test_one_request_after_another(served: Served) -> None:
    async with opened(served) as connection:
        first = await ask(connection, prompt="The sun", max_tokens=3)
        second = await ask(connection, prompt="A dog", max_tokens=4, temperature=0.5, seed=3, stop=["zzz"])
        third = await ask(connection, messages=[{"role": "user", "content": "Hello"}], max_tokens=5)
    assert [frames[-1]["id"] for frames in (first, second, third)] == ["1", "2", "3"]
    assert [frames[-1]["usage"]["completion_tokens"] for frames in (first, second, third)] == [3, 4, 5]


@pytest.mark.parametrize(
    ("message", "code", "field"),
    [
        ("{", "invalid_json", None),
        ('{"prompt": "a", "prompt": "b"}', "invalid_json", None),
        ('{"prompt": "\\ud800"}', "invalid_json", None),
        ("[]", "invalid_value", None),
        ("[" * 40 + "]" * 40, "too_deep", None),
        ({}, "invalid_value", None),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "invalid_value", None),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"prompt": "a", "max_tokens": "4"}, "invalid_value", "max_tokens"),
        ({"prompt": "a", "stop": ["b", 1]}, "invalid_value", "stop.1"),
        ({"prompt": "a", "colour": 1}, "unknown_field", "colour"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.0.content"),
        ({"prompt": "a", "model": "other"}, "model_not_found", "model"),
        ({"prompt": "a", "model": "embed"}, "wrong_task", "model"),
        ({"cancel": 1}, "invalid_value", "cancel"),
        ({"cancel": False}, "invalid_value", "cancel"),
        ({"ping": "x" * 200}, "invalid_value", "ping"),
        ({"prompt": "far too long " * 2000}, "invalid_value", None),
        (b"\xff\xfe", "invalid_json", None),
    ],
)
async def test_a_fault_is_a_frame_and_the_socket_goes_on(
    served: Served, message: Any, code: str, field: str | None
) -> None:
    if isinstance(message, dict):
        message = json.dumps({"id": 7, **message})
    async with opened(served) as connection:
        await connection.send(message)
        (frame,) = await frames_of(connection)
        assert (frame["error"]["code"], frame["error"]["field"]) == (code, field), frame
        assert frame["error"]["mend"]
        assert frame["id"] == (7 if '"id"' in str(message) else None)
        assert (await ask(connection, prompt="a", max_tokens=1))[-1]["finish_reason"] == "length"


async def test_a_message_that_is_too_large_closes(serve: Serve) -> None:
    with serve(limits={"max_body_bytes": 1000}) as served:
        async with opened(served) as connection:
            await connection.send(json.dumps({"prompt": "a" * 1000}))
            with pytest.raises(ConnectionClosed) as caught:
                await connection.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        served.wait_for_sockets(0)


async def test_cancel_by_message(served: Served, finished: Callable[[str], int]) -> None:
    cancelled = finished("cancelled")
    async with opened(served) as connection:
        for cancel in ({"cancel": True}, {"type": "cancel", "id": "a"}):
            for _ in range(ATTEMPTS):
                await connection.send(json.dumps({**LONG, "id": "a"}))
                first = json.loads(await connection.recv())
                assert first["is_final"] is False
                await connection.send(json.dumps(cancel))
                *_, final = await frames_of(connection)
                if final["finish_reason"] != "length":
                    break
            assert (final["finish_reason"], final["id"]) == ("cancelled", "a")
            assert 0 < final["usage"]["completion_tokens"] < LONG["max_tokens"]
        await counted(lambda: finished("cancelled"), cancelled + 1)
        whole = finished("length")
        # A cancel for another request, or for none, changes nothing.
        await connection.send(json.dumps({"cancel": True}))
        await connection.send(json.dumps({"prompt": "a", "max_tokens": 4, "id": "b"}))
        await connection.send(json.dumps({"cancel": True, "id": "a"}))
        assert (await frames_of(connection))[-1]["finish_reason"] == "length"
    await counted(lambda: finished("length"), whole)
    assert finished("length") == whole + 1


async def test_closing_cancels(served: Served, finished: Callable[[str], int]) -> None:
    for leave in (lambda connection: None, lambda connection: connection.transport.abort()):  # no close frame
        for _ in range(ATTEMPTS):
            ended, cancelled = finished(""), finished("cancelled")
            async with opened(served) as connection:
                await connection.send(json.dumps(LONG))
                await connection.recv()
                leave(connection)
            await counted(lambda: finished(""), ended)
            if finished("cancelled") == cancelled + 1:
                break
        assert finished("cancelled") == cancelled + 1
    await asyncio.to_thread(served.wait_for_sockets, 0)


async def test_a_request_while_another_runs(served: Served) -> None:
    async with opened(served) as connection:
        await connection.send(json.dumps({**LONG, "id": "a"}))
        await connection.recv()
        await connection.send(json.dumps({"prompt": "a", "id": "b"}))
        frames = [json.loads(await connection.recv())]
        while frames[-1]["id"] != "b":
            frames.append(json.loads(await connection.recv()))
        assert frames[-1]["error"]["code"] == "busy"
        await connection.send(json.dumps({"cancel": True}))
        assert (await frames_of(connection))[-1]["finish_reason"] == "cancelled"


async def test_pings_are_answered_while_a_request_runs(served: Served) -> None:
    async with opened(served) as connection:
        await connection.send(json.dumps(LONG))
        await connection.recv()
        await connection.send(json.dumps({"ping": 17}))
        frames = [json.loads(await connection.recv())]
        while "pong" not in frames[-1]:
            frames.append(json.loads(await connection.recv()))
        assert frames[-1] == {"pong": 17}
        assert not any(frame["is_final"] for frame in frames[:-1])
        await (await connection.ping())


async def test_scopes_are_asked_for_each_request(served: Served) -> None:
    async with opened(served, token="token-of-bob") as connection:  # embed generate model:embed
        (frame,) = await ask(connection, prompt="a", model="tinygen")
    assert (frame["error"]["code"], frame["error"]["field"]) == ("forbidden", "model")
