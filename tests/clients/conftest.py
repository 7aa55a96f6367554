from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc

from clients import AsyncClient, Client, ClientError, Piece
from tests.clients.driver import Driver, own_regions
from tritonforge.server import ServerOptions, TritonServer

FREE_PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}


@pytest.fixture(scope="session")
def toy_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: Triton must find no byte code that an earlier run left beside the model."""
    copy = tmp_path_factory.mktemp("toy") / "repository"
    shutil.copytree(
        Path(__file__).parent / "toy_repository", copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    return copy


@pytest.fixture(scope="session")
def server(toy_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("toy") / "tritonserver.log"
    with (
        log.open("wb") as sink,
        TritonServer(toy_repository, ServerOptions(**FREE_PORTS), log_sink=sink) as toy,
    ):
        yield toy


class Generation:
    """Runs the same calls of generation on a blocking or an asyncio client."""

    def __init__(self, url: str, kind: type[Client] | type[AsyncClient], protocol: Any) -> None:
        self.url = url
        self.kind = kind
        self.protocol = protocol

    def __call__(self, action: Callable[[Any], Any], **settings: Any) -> Any:
        settings = {"model": "toy_generator", "url": self.url, "protocol": self.protocol, **settings}
        if self.kind is Client:
            with Client(**settings) as client:
                return action(client)

        async def run() -> Any:
            async with AsyncClient(**settings) as client:
                answer = action(client)
                return await answer if inspect.isawaitable(answer) else answer

        return asyncio.run(run())

    def pieces(
        self,
        open_stream: Callable[[Any], Any],
        take: int | None = None,
        then: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Any:
        """Read a stream, ``take`` pieces at most.

        Returns the pieces, the error or None, and the completion; ``then`` runs before the client is closed.
        """

        def read(client: Client) -> Any:
            found: list[Piece] = []
            stream = open_stream(client)
            try:
                for piece in stream:
                    found.append(piece)
                    if len(found) == take:
                        break
            except ClientError as error:
                return found, error, stream.completion
            stream.close()
            then()
            return found, None, stream.completion

        async def read_async(client: AsyncClient) -> Any:
            found: list[Piece] = []
            stream = open_stream(client)
            try:
                async for piece in stream:
                    found.append(piece)
                    if len(found) == take:
                        break
            except ClientError as error:
                return found, error, stream.completion
            await stream.aclose()
            await asyncio.to_thread(then)
            return found, None, stream.completion

        return self(read if self.kind is Client else read_async, **settings)


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "asyncio"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def drive(server: TritonServer, kind: Any, protocol: str) -> Driver:
    return Driver(server, kind, protocol, shm=False)


@pytest.fixture
def drive_shm(server: TritonServer, kind: Any, protocol: str) -> Iterator[Driver]:
    """A driver with shared memory; afterwards nothing of it may be left."""
    yield Driver(server, kind, protocol, shm=True)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        status = client.get_system_shared_memory_status(as_json=True)
    assert not status.get("regions"), "the server still knows regions"
    assert own_regions() == []


@pytest.fixture
def generation(server: TritonServer) -> Callable[[Any, str], Generation]:
    """Makes a driver of a kind of client and a protocol."""
    return lambda kind, protocol: Generation(
        server.grpc_url if protocol == "grpc" else server.http_address, kind, protocol
    )


@pytest.fixture
def generate(generation: Callable[[Any, str], Generation], kind: Any, protocol: str) -> Generation:
    """A driver of each kind and protocol in turn."""
    return generation(kind, protocol)


@pytest.fixture(scope="session")
def patiently() -> Callable[[Callable[[float], bool]], None]:
    """Tries with more and more seconds until there was time for what shall be seen: machines differ."""

    def run(attempt: Callable[[float], bool]) -> None:
        assert any(attempt(seconds) for seconds in (0.4, 2, 10))

    return run


@pytest.fixture
def nowhere(kind: Any, protocol: str) -> Generation:
    """A driver to a port that is privileged and unused."""
    return Generation("127.0.0.1:1", kind, protocol)


@pytest.fixture(scope="session")
def counts(server: TritonServer) -> Iterator[Callable[[], Counter[str]]]:
    """How the toy's requests ended and how many go on, by what it says itself."""
    with Client(server.grpc_url, "toy_generator") as client:
        yield lambda: Counter(json.loads(client.generate("!counts").text))


@pytest.fixture
def settled(counts: Callable[[], Counter[str]]) -> Callable[[], dict[str, int]]:
    """The same, once no request goes on."""

    def ask() -> dict[str, int]:
        deadline = time.monotonic() + 120
        while (found := counts())["active"] and time.monotonic() < deadline:
            time.sleep(0.05)
        return {name: found[name] for name in ("active", "finished", "cancelled", "failed")}

    return ask


@pytest.fixture
def one_cancelled(settled: Callable[[], dict[str, int]]) -> Callable[[], AbstractContextManager[None]]:
    """Asserts that in the block exactly one request was cancelled, and none ran to its end."""

    @contextmanager
    def block() -> Iterator[None]:
        before = settled()
        yield
        assert settled() == {**before, "cancelled": before["cancelled"] + 1}

    return block
