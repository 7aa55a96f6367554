"""A client for a generation model that costs as little as a client can: it shares the cores with the server.

Requests are encoded before the clock starts, answers are kept as bytes and read after it has stopped. Over
gRPC each request is a ``ModelStreamInfer`` call of its own, over SSE a connection of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from loadtest.errors import LoadTestError

GRPC_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_LAST_CHUNK = b"0\r\n\r\n"
_TIMEOUT_S = 300.0

Send = Callable[[bytes], AsyncIterator[bytes]]
"""Sends an encoded request; gives the bytes of the answer as they come."""


@dataclass(frozen=True)
class Answer:
    """One streamed answer.

    Attributes:
        text: All of it.
        tokens: How many tokens it has.
        prompt_tokens: And its prompt.
        responses: How many pieces it came in.
        first_s: Seconds from sending to the first piece.
        last_s: Seconds from sending to the last piece.
    """

    text: str
    tokens: int
    prompt_tokens: int
    responses: int
    first_s: float
    last_s: float


@dataclass(frozen=True)
class Turn:
    """What a side did with the prompts of one round.

    Attributes:
        tokens: Tokens generated.
        seconds: From the first request to the last token.
        cpu_s: CPU seconds of the process that asked, or that computed where there is no server.
        first_ms: Time to the first token of each request, milliseconds.
        per_token_ms: Mean time of each request's later tokens, milliseconds.
        prompt_tokens: Mean length of the prompts.
    """

    tokens: int
    seconds: float
    cpu_s: float
    first_ms: list[float]
    per_token_ms: list[float]
    prompt_tokens: float

    @classmethod
    def of(cls, answers: Sequence[Answer], seconds: float, cpu_s: float) -> Turn:
        """Sum up the answers of one round."""
        return cls(
            tokens=sum(answer.tokens for answer in answers),
            seconds=seconds,
            cpu_s=cpu_s,
            first_ms=[answer.first_s * 1e3 for answer in answers],
            per_token_ms=[
                (answer.last_s - answer.first_s) * 1e3 / (answer.tokens - 1)
                for answer in answers
                if answer.tokens > 1
            ],
            prompt_tokens=float(np.mean([answer.prompt_tokens for answer in answers])),
        )


def ask_over_grpc(url: str, model: str, prompts: Sequence[str], streams: int, tokens: int) -> Turn:
    """Send the prompts over gRPC, ``streams`` at a time, ``tokens`` tokens for each."""
    bodies = [grpc_request(model, prompt, tokens) for prompt in prompts]
    return asyncio.run(_ask_all(grpc_sender(url), bodies, streams, read_grpc))


def ask_over_sse(address: str, model: str, prompts: Sequence[str], streams: int, tokens: int) -> Turn:
    """Send the prompts to ``/generate_stream``, ``streams`` at a time, ``tokens`` tokens for each."""
    bodies = [sse_request(address, model, prompt, tokens) for prompt in prompts]
    return asyncio.run(_ask_all(sse_sender(address), bodies, streams, read_sse))


def grpc_request(model: str, prompt: str, tokens: int) -> bytes:
    """Encode a streamed request for exactly ``tokens`` tokens."""
    request = service_pb2.ModelInferRequest(model_name=model)
    text = prompt.encode()
    for name, kind, raw in (
        ("text_input", "BYTES", len(text).to_bytes(4, "little") + text),
        ("max_tokens", "INT32", tokens.to_bytes(4, "little")),
        ("ignore_eos", "BOOL", b"\x01"),
        ("stream", "BOOL", b"\x01"),
    ):
        request.inputs.add(name=name, datatype=kind, shape=[1])
        request.raw_input_contents.append(raw)
    for name in ("text_output", "prompt_tokens", "completion_tokens"):
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


def sse_request(address: str, model: str, prompt: str, tokens: int) -> bytes:
    """Encode the same request for HTTP."""
    asked = {"text_input": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body = json.dumps(asked).encode()
    head = (
        f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def grpc_sender(url: str) -> AsyncIterator[Send]:
    """All calls go through one connection, and no message is decoded."""
    async with grpc.aio.insecure_channel(url) as channel:
        method = channel.stream_stream(GRPC_METHOD)

        async def send(body: bytes) -> AsyncIterator[bytes]:
            call = method(timeout=_TIMEOUT_S)
            await call.write(body)
            await call.done_writing()
            async for message in call:
                yield message

        yield send


@asynccontextmanager
async def sse_sender(address: str) -> AsyncIterator[Send]:
    """Each request opens a connection."""
    host, _, port = address.rpartition(":")

    async def send(body: bytes) -> AsyncIterator[bytes]:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(body)
            last = b""
            while not last.endswith(_LAST_CHUNK) and (data := await reader.read(1 << 16)):
                last = (last + data)[-len(_LAST_CHUNK) :]
                yield data
        finally:
            writer.close()

    yield send


async def _ask_all(sender: Any, bodies: Sequence[bytes], streams: int, read: Callable[..., Answer]) -> Turn:
    """Closed loop: each stream sends its next request when its last is answered."""
    pending = iter(bodies)
    raw: list[tuple[float, list[tuple[float, bytes]]]] = []

    async with sender as send:

        async def stream() -> None:
            for body in pending:
                sent = time.perf_counter()
                arrivals = [(time.perf_counter(), data) async for data in send(body)]
                raw.append((sent, arrivals))

        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(stream() for _ in range(streams)))
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return Turn.of([read(sent, arrivals) for sent, arrivals in raw], seconds, cpu_s)


# --- after the clock has stopped -----------------------------------------------------------------


def read_grpc(sent: float, arrivals: Sequence[tuple[float, bytes]]) -> Answer:
    """Decode the messages of one call.

    Raises:
        LoadTestError: The server answered with an error, or not to the end.
    """

    def pieces() -> Iterator[tuple[float, dict[str, Any]]]:
        for when, data in arrivals:
            message = service_pb2.ModelStreamInferResponse.FromString(data)
            if message.error_message:
                raise LoadTestError(f"the server answered: {message.error_message}")
            response = message.infer_response
            yield (
                when,
                {
                    output.name: raw[4:].decode()
                    if output.datatype == "BYTES"
                    else int.from_bytes(raw, "little")
                    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
                },
            )

    return _join(sent, pieces())


def read_sse(sent: float, arrivals: Sequence[tuple[float, bytes]]) -> Answer:
    """Decode the events of one connection; an event came with the bytes that hold its end.

    Raises:
        LoadTestError: The server answered with an error, or not to the end.
    """

    def pieces() -> Iterator[tuple[float, dict[str, Any]]]:
        rest = b""
        for when, data in arrivals:
            *lines, rest = (rest + data).split(b"\n\n")
            for line in lines:
                # What stands before the event are headers and sizes of chunks.
                event = json.loads(line[line.index(b"data: ") + 6 :])
                if "error" in event:
                    raise LoadTestError(f"the server answered: {event['error']}")
                yield when, event
        if rest.startswith(b"HTTP/1.1 ") and not rest.startswith(b"HTTP/1.1 200"):
            raise LoadTestError(f"the server answered: {rest.decode(errors='replace')}")

    return _join(sent, pieces())


def _join(sent: float, pieces: Iterator[tuple[float, dict[str, Any]]]) -> Answer:
    """Put the pieces of one answer together."""
    got = list(pieces)
    if not got or "completion_tokens" not in got[-1][1]:
        raise LoadTestError("an answer was cut off", mend="read the server's log")
    last = got[-1][1]
    return Answer(
        text="".join(piece.get("text_output", "") for _, piece in got),
        tokens=int(last["completion_tokens"]),
        prompt_tokens=int(last["prompt_tokens"]),
        responses=len(got),
        first_s=got[0][0] - sent,
        last_s=got[-1][0] - sent,
    )
