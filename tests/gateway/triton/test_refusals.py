"""Requests that the generator refuses leave nothing behind on the server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gateway.errors import ApiError
from gateway.triton.channel import TritonChannel
from gateway.triton.tensors import generation_request
from tritonforge.server import ServerOptions, TritonServer


async def refuse(url: str, times: int) -> None:
    channel = TritonChannel(url)
    for _ in range(times):
        request = generation_request(
            "tinygen", "1", {"stream": True, "text_input": "x", "max_tokens": 100_000}
        )
        with pytest.raises(ApiError, match="max_tokens") as caught:
            async for _response in channel.stream(request, pool="main", deadline=time.monotonic() + 20):
                pytest.fail("an answer came")
        assert caught.value.code.name == "invalid_value"
    await channel.close()


async def test_the_server_stops_soon_after_them(tiny_generation_repository: Path, tmp_path: Path) -> None:
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, engine_threads=1, exit_timeout_s=120)
    with (
        (tmp_path / "log").open("wb") as sink,
        TritonServer(tiny_generation_repository, options, log_sink=sink) as server,
    ):
        await refuse(server.grpc_url, 100)
        # It waits two minutes for requests in flight; a leaked one never ends.
        assert server.stop() == 0
