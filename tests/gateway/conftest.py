"""What the tests of the door share: tiny models on a real tritonserver, and the facade on it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.facade.state import Facade
from gateway.identity import SCOPES_HEADER, SUBJECT_HEADER
from tests.conftest import Build, TinyModel
from tritonforge.server import ServerOptions, TritonServer

ALL_SCOPES = "embed classify generate kserve model:*"
ALICE = {SUBJECT_HEADER: "alice", SCOPES_HEADER: ALL_SCOPES}
"""What Envoy would have found out about the caller."""


@pytest.fixture(scope="session")
def gateway_repository(
    tmp_path_factory: pytest.TempPathFactory,
    build_recipe: Build,
    tiny_model: TinyModel,
    tiny_generation_repository: Path,
) -> Path:
    """A model for each task: ``embed``, ``sort`` (calm, glad, sad) and ``tinygen``."""
    repository = tmp_path_factory.mktemp("gateway-repository")
    for name, task in (("embed", "embedding"), ("sort", "classification")):
        build_recipe(
            into=repository,
            name=name,
            model=str(tiny_model("bert", task)),
            engine="onnxruntime",
            threads={"engine": 1},
            length_mix=[{"tokens": 8}],
        )
    shutil.copytree(tiny_generation_repository / "tinygen", repository / "tinygen")
    return repository


@pytest.fixture(scope="session")
def triton(gateway_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """tritonserver with these models, on free ports."""
    log = tmp_path_factory.mktemp("log") / "gateway-triton.log"
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, engine_threads=1)
    with log.open("wb") as sink, TritonServer(gateway_repository, options, log_sink=sink) as server:
        yield server


@dataclass(frozen=True)
class RunningApp:
    """The facade, in this process.

    Attributes:
        app: The ASGI application.
        client: Calls it as Envoy would for alice, who may do everything.
    """

    app: FastAPI
    client: httpx.AsyncClient

    @property
    def facade(self) -> Facade:
        """What the application holds."""
        facade: Facade = self.app.state.facade
        return facade


FacadeApp = Callable[..., AbstractAsyncContextManager[RunningApp]]


@pytest.fixture
def facade_app(triton: TritonServer) -> FacadeApp:
    """Opens the facade on the real server: ``async with facade_app(config) as running``."""

    @contextlib.asynccontextmanager
    async def open_app(config: GatewayConfig | None = None) -> AsyncIterator[RunningApp]:
        app = create_app(config or GatewayConfig(), triton.grpc_url)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://door", headers=ALICE) as client,
        ):
            yield RunningApp(app, client)

    return open_app
