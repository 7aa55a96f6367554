"""Regions of shared memory: reused, and gone when the client is, whatever happened."""

from __future__ import annotations

import asyncio
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from clients import AsyncClient, Client, ClientError, RequestTimeoutError, SharedMemoryError
from tests.clients.driver import QUICK, Driver, expected, own_regions, released
from tritonforge.server import TritonServer


def test_regions_are_reused(server: TritonServer, drive_shm: Driver) -> None:
    def embed_twice(client: Any) -> Any:
        if isinstance(client, Client):
            client.embed(["a"])
            first = own_regions()
            client.embed(["b"])
            return first, own_regions()

        async def run() -> Any:
            await client.embed(["a"])
            first = own_regions()
            await client.embed(["b"])
            return first, own_regions()

        return run()

    first, second = drive_shm(embed_twice)
    assert len(first) == 1
    assert first == second


def test_no_region_left_after_errors(drive_shm: Driver) -> None:
    for order in ("!invalid", "!internal", f"!unavailable 9 {uuid.uuid4().hex}"):
        with pytest.raises(ClientError, match="asked to"):
            drive_shm(lambda client, order=order: client.embed([order, "b"]), retry=QUICK)


def test_no_region_left_after_a_timeout(server: TritonServer, drive_shm: Driver, tmp_path: Path) -> None:
    end = tmp_path / "end"

    def fail(client: Any) -> Any:
        # The server still uses the region when the client is closed, and for a moment longer.
        late = threading.Timer(0.3, end.touch)
        if isinstance(client, Client):
            with pytest.raises(RequestTimeoutError):
                client.embed([f"!until {end}"])
            return late.start()

        async def run() -> None:
            with pytest.raises(RequestTimeoutError):
                await client.embed([f"!until {end}"])
            late.start()

        return run()

    drive_shm(fail, timeout=0.4)
    assert server.returncode is None, "the server died of a region that went away"


def test_no_region_left_after_cancellation(drive_shm: Driver, tmp_path: Path) -> None:
    if drive_shm.kind is Client:
        pytest.skip("blocking calls cannot be cancelled")

    async def cancel(client: AsyncClient) -> None:
        await client.embed(["warm"])
        end = tmp_path / "end"
        task = asyncio.create_task(client.embed([f"!until {end}"]))
        with released(end):
            while not end.with_suffix(".begun").exists():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        np.testing.assert_array_equal(await client.embed(["after"]), expected(["after"]))

    drive_shm(cancel)


def test_server_forgot_the_regions(server: TritonServer, drive_shm: Driver) -> None:
    """As after a restart of the server on the same port."""

    def forget() -> None:
        with tritonclient.grpc.InferenceServerClient(server.grpc_url) as raw:
            raw.unregister_system_shared_memory()

    def embed_forget_embed(client: Any) -> Any:
        if isinstance(client, Client):
            client.embed(["a"])
            forget()
            return client.embed(["b"])

        async def run() -> Any:
            await client.embed(["a"])
            forget()
            return await client.embed(["b"])

        return run()

    np.testing.assert_array_equal(drive_shm(embed_forget_embed, retry=QUICK), expected(["b"]))


def test_region_that_the_system_will_not_give(drive_shm: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.shared_memory._SMALLEST_REGION", 1 << 62)
    with pytest.raises(SharedMemoryError, match="/dev/shm"):
        drive_shm(lambda client: client.embed(["a"]))
