"""What the tests of the door share: tiny models on a real tritonserver, and the facade on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.facade.state import Facade
from gateway.identity import SCOPES_HEADER, SUBJECT_HEADER
from tests.conftest import Build, TinyModel
from tritonforge.server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from gateway.control.supervisor import Gateway

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
            httpx.AsyncClient(
                transport=transport, base_url="http://door", headers=ALICE, timeout=60
            ) as client,
        ):
            yield RunningApp(app, client)

    return open_app


@dataclass(frozen=True)
class Door:
    """A whole gateway: Envoy, a facade process, and the loops, on the real server.

    Attributes:
        url: Base URL.
        address: ``host:port``, for gRPC.
        metrics_url: Base URL of the metrics listener.
        folder: Where ``keys.json`` and ``jwks.json`` lie.
        log: What its processes wrote.
        run_folder: Its sockets and generated files.
        mint: Makes an RS256 token: ``mint("embed model:embed", sub="bob", exp=...)``.
    """

    url: str
    address: str
    metrics_url: str
    folder: Path
    log: Path
    run_folder: Path
    mint: Callable[..., str]

    def headers(self, scopes: str = ALL_SCOPES, subject: str = "alice") -> dict[str, str]:
        """The header of a caller who may do this."""
        return {"authorization": f"Bearer {self.mint(scopes, sub=subject)}"}


ISSUER = "https://login.example.com"
AUDIENCE = "tritonforge"


@contextlib.contextmanager
def open_door(servers: Sequence[TritonServer], folder: Path, **sections: Any) -> Iterator[Door]:
    """Run a gateway in front of servers, in a thread of its own.

    Args:
        servers: The one pool's servers.
        folder: For keys and logs.
        sections: Of gateway.yaml, over what is set here.
    """
    key = RSAKey.generate_key(2048, {"kid": "first", "use": "sig", "alg": "RS256"})
    (folder / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))

    def mint(scopes: str, **claims: Any) -> str:
        standard = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "exp": int(time.time()) + 3600,
            "scope": scopes,
            "sub": "alice",
        }
        return jwt.encode({"alg": "RS256", "kid": "first"}, standard | claims, key)

    issuer = {
        "name": "company",
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "jwks_file": str(folder / "jwks.json"),
    }
    addresses = [
        {"http_port": int(s.http_address.rpartition(":")[2]), "grpc_port": int(s.grpc_url.rpartition(":")[2])}
        for s in servers
    ]
    config = GatewayConfig.model_validate(
        {
            "listen": {"port": 0},
            "metrics": {"port": 0},
            "pools": [{"regions": [{"name": "local", "servers": addresses}]}],
            "auth": {"issuers": [issuer], "api_keys": {"file": str(folder / "keys.json")}},
            "limits": {"local": {"per_second": 1000, "burst": 1000}, "address": None},
            **sections,
        }
    )
    from gateway.control.supervisor import Gateway

    log = folder / "gateway.log"
    with log.open("wb") as sink, run_in_thread(Gateway(config, log=sink.fileno())) as gateway:
        yield Door(gateway.url, gateway.address, gateway.metrics_url, folder, log, gateway.paths.folder, mint)


@contextlib.contextmanager
def run_in_thread(gateway: Gateway) -> Iterator[Gateway]:
    """Start a gateway on an event loop in another thread, and stop it at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(180)

    try:
        run(gateway.__aenter__())
        try:
            yield gateway
        finally:
            run(gateway.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@pytest.fixture(scope="session")
def door(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway before the one server; its limits are out of the way."""
    with open_door([triton], tmp_path_factory.mktemp("door")) as running:
        yield running
