"""What tests of encoders' clients share: the toy's numbers, and a driver for all kinds of client."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients import AsyncClient, Client, RetryPolicy
from tritonforge.server import TritonServer

QUICK = RetryPolicy(attempts=4, first_delay=0.01)


def expected(texts: list[str]) -> NDArray[np.float32]:
    """What the toy model computes, computed here."""
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32) for text in texts]
    return np.array(digests, np.float32).reshape(-1, 8) / np.float32(2**32)


def sentences(count: int) -> list[str]:
    return [f"Sätze {number} of many 漢字 🙂 " + "word " * (number % 40) for number in range(count)]


class Driver:
    """Runs the same calls on a blocking or an asyncio client, so that each test is written once."""

    def __init__(
        self, server: TritonServer, kind: type[Client] | type[AsyncClient], protocol: str, shm: bool
    ) -> None:
        self.url = server.grpc_url if protocol == "grpc" else server.http_address
        self.kind = kind
        self.settings: dict[str, Any] = {"protocol": protocol, "shared_memory": shm}

    def __call__(self, action: Callable[[Any], Any], *, model: str = "toy_embedder", **settings: Any) -> Any:
        """Open a client, run ``action(client)``, await what it returns if need be, and close the client."""
        settings = {"url": self.url, **self.settings, **settings}
        if self.kind is Client:
            with Client(model=model, **settings) as client:
                return action(client)

        async def run() -> Any:
            async with AsyncClient(model=model, **settings) as client:
                answer = action(client)
                return await answer if inspect.isawaitable(answer) else answer

        return asyncio.run(run())


def own_regions() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"tritonforge-client-{os.getpid()}-*")]


@contextmanager
def released(end: Path) -> Iterator[None]:
    """What waits in the model for this file may go on after the block."""
    try:
        yield
    finally:
        end.touch()
