from __future__ import annotations

import json

import pytest
from tritonclient.grpc import service_pb2

from loadtest.errors import LoadTestError
from loadtest.generation_client import Answer, Turn, grpc_request, read_grpc, read_sse, sse_request


def message(text: str, last: tuple[int, int] | None = None) -> bytes:
    found = service_pb2.ModelStreamInferResponse()
    response = found.infer_response
    raw = text.encode()
    response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    response.raw_output_contents.append(len(raw).to_bytes(4, "little") + raw)
    for name, value in zip(("prompt_tokens", "completion_tokens"), last or (), strict=False):
        response.outputs.add(name=name, datatype="INT32", shape=[1])
        response.raw_output_contents.append(value.to_bytes(4, "little"))
    return bytes(found.SerializeToString())


def event(**values: object) -> bytes:
    data = b"data: " + json.dumps(values).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SSE = HEAD + b"".join(
    [
        event(text_output="na", token_ids=1),
        event(text_output="ï", token_ids=[2, 3]),
        event(text_output="ve", prompt_tokens=5, completion_tokens=4),
        b"0\r\n\r\n",
    ]
)


def test_grpc_request_asks_for_so_many_tokens() -> None:
    request = service_pb2.ModelInferRequest.FromString(grpc_request("m", "naïve", 300))
    values = dict(
        zip([tensor.name for tensor in request.inputs], list(request.raw_input_contents), strict=True)
    )
    assert values == {
        "text_input": b"\x06\0\0\0" + "naïve".encode(),
        "max_tokens": b"\x2c\x01\0\0",
        "ignore_eos": b"\x01",
        "stream": b"\x01",
    }
    assert request.model_name == "m"


def test_sse_request_is_whole() -> None:
    head, _, body = sse_request("localhost:1", "m", "naïve", 9).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/m/generate_stream HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"text_input": "naïve", "max_tokens": 9, "ignore_eos": True, "stream": True}


def test_messages_become_an_answer() -> None:
    answer = read_grpc(10.0, [(11.0, message("na")), (12.5, message("ïve", (5, 4)))])
    assert answer == Answer("naïve", tokens=4, prompt_tokens=5, responses=2, first_s=1.0, last_s=2.5)


@pytest.mark.parametrize("cut", [1, 7, 40, 150, len(SSE)])
def test_events_become_an_answer_however_they_are_cut(cut: int) -> None:
    parts = [SSE[start : start + cut] for start in range(0, len(SSE), cut)]
    answer = read_sse(0.0, [(1.0 + number, part) for number, part in enumerate(parts)])
    assert (answer.text, answer.tokens, answer.prompt_tokens, answer.responses) == ("naïve", 4, 5, 3)
    first_end = SSE.index(b"\n\n", SSE.index(b"data:")) + 1
    assert answer.first_s == 1.0 + first_end // cut


@pytest.mark.parametrize("end", [12, len(HEAD), SSE.index(b"data") + 20, SSE.index(b"completion") - 40])
def test_an_answer_that_is_cut_off_is_an_error(end: int) -> None:
    with pytest.raises(LoadTestError, match="cut off"):
        read_sse(0.0, [(1.0, SSE[:end])])


def test_no_message_is_an_error() -> None:
    with pytest.raises(LoadTestError, match="cut off"):
        read_grpc(0.0, [])


def test_the_servers_errors_are_told() -> None:
    failed = service_pb2.ModelStreamInferResponse(error_message="the line is full")
    with pytest.raises(LoadTestError, match="the line is full"):
        read_grpc(0.0, [(1.0, failed.SerializeToString())])
    with pytest.raises(LoadTestError, match="the line is full"):
        read_sse(0.0, [(1.0, HEAD + event(error="the line is full"))])
    with pytest.raises(LoadTestError, match="400 Bad Request"):
        read_sse(0.0, [(1.0, b'HTTP/1.1 400 Bad Request\r\n\r\n{"error":"no such model"}')])


def test_turn_sums_up() -> None:
    answers = [
        Answer("", tokens=5, prompt_tokens=10, responses=5, first_s=0.5, last_s=0.9),
        Answer("", tokens=1, prompt_tokens=30, responses=1, first_s=0.2, last_s=0.2),
    ]
    turn = Turn.of(answers, seconds=2.0, cpu_s=0.1)
    assert (turn.tokens, turn.first_ms, turn.prompt_tokens) == (6, [500.0, 200.0], 20.0)
    assert turn.per_token_ms == pytest.approx([100.0])
