"""The way to the servers."""

from __future__ import annotations

import asyncio
import time

from gateway.errors import ApiError
from gateway.triton.channel import TritonChannel
from gateway.triton.tensors import generation_request
from tritonforge.server import TritonServer


async def test_a_deadline_may_pass_at_any_moment(triton: TritonServer) -> None:
    """Also while the request is being sent, where grpc.aio has errors of its own."""
    channel = TritonChannel(triton.grpc_url)

    async def ask(seconds: float) -> str:
        fields = {"text_input": "x", "stream": True, "max_tokens": 400, "ignore_eos": True}
        request = generation_request("tinygen", "", fields)
        try:
            async for _ in channel.stream(request, pool="main", deadline=time.monotonic() + seconds):
                pass
        except ApiError as error:
            return error.code.name
        return "answered"

    try:
        told = set(await asyncio.gather(*(ask(0.0001 * i) for i in range(1, 150))))
    finally:
        await channel.close()
    assert told == {"deadline_exceeded"}
