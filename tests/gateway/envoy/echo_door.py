"""Envoy with the whole door before a small upstream that answers what reached it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from joserfc import jwt
from joserfc.jwk import OctKey
from starlette.types import Receive, Scope, Send

from gateway.config import GatewayConfig
from gateway.config.load import parse_config
from gateway.envoy import binary, clusters, render
from gateway.paths import RunPaths
from tests.gateway.conftest import ALL_SCOPES
from tritonforge.server.ports import free_ports

SECRET = "a secret of the tests, of forty bytes.... "


@dataclass(frozen=True)
class EchoDoor:
    """A running Envoy."""

    config: GatewayConfig
    paths: RunPaths
    log: Path

    @property
    def port(self) -> int:
        return self.config.listen.port

    @property
    def url(self) -> str:
        return f"{'https' if self.config.listen.tls else 'http'}://127.0.0.1:{self.port}"

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False, **options)

    def admin(self, path: str) -> str:
        transport = httpx.HTTPTransport(uds=str(self.paths.admin))
        with httpx.Client(transport=transport, base_url="http://envoy", timeout=60) as client:
            return client.get(path).text


def mint(scopes: str = ALL_SCOPES, secret: str = SECRET, **claims: Any) -> str:
    """A development token."""
    standard = {
        "iss": "tritonforge-dev",
        "aud": "tritonforge",
        "sub": "alice",
        "exp": int(time.time()) + 3600,
    }
    return jwt.encode({"alg": "HS256"}, standard | {"scope": scopes} | claims, OctKey.import_key(secret))


@contextlib.contextmanager
def echo_door(*, more_pools: tuple[str, ...] = (), **sections: Any) -> Iterator[EchoDoor]:
    """Run Envoy and the upstream until the block is left; a development token opens it.

    Each of ``more_pools`` serves a model of its name, by a server that is not there.
    """
    folder = Path(tempfile.mkdtemp(prefix="door-"))
    port, metrics, server, unused = free_ports(4)
    nobody = {"http_port": unused, "grpc_port": unused}
    pools: list[dict[str, Any]] = [
        {"regions": [{"name": "local", "servers": [{"http_port": server, "grpc_port": unused}]}]},
        *({"name": p, "models": [p], "regions": [{"name": p, "servers": [nobody]}]} for p in more_pools),
    ]
    data = {
        "listen": {},
        "pools": pools,
        "auth": {"development": {}},
        "limits": {"local": {"per_second": 1000, "burst": 1000}, "address": None},
        **sections,
    }
    data["listen"] = {**data["listen"], "port": port}
    data["metrics"] = {"port": metrics}
    before = os.environ.get("TRITONFORGE_DEV_SECRET")
    os.environ["TRITONFORGE_DEV_SECRET"] = SECRET
    try:
        config, paths = parse_config(data, folder / "gateway.yaml"), RunPaths(folder)
        clusters.write_clusters(config, paths)
        render.write(config, paths)
        with _upstream(paths, server), _envoy(config, paths) as log:
            yield EchoDoor(config, paths, log)
    finally:
        if before is None:
            del os.environ["TRITONFORGE_DEV_SECRET"]
        else:
            os.environ["TRITONFORGE_DEV_SECRET"] = before
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _envoy(config: GatewayConfig, paths: RunPaths) -> Iterator[Path]:
    log = paths.folder / "envoy.log"
    command = [str(binary.locate(config)), "-c", str(paths.bootstrap), "--concurrency", "1"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "100"],
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        transport = httpx.HTTPTransport(uds=str(paths.admin))
        with httpx.Client(transport=transport, base_url="http://envoy") as client:
            deadline = time.monotonic() + 60
            while not _is_live(client):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.05)
        yield log
    finally:
        process.terminate()
        process.wait(60)


def _is_live(admin: httpx.Client) -> bool:
    try:
        return admin.get("/ready").text.strip() == "LIVE"
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def _upstream(paths: RunPaths, port: int) -> Iterator[None]:
    """The same answers where the facade would be, and where a server would be."""
    options: Any = {"log_level": "error", "lifespan": "off", "ws": "websockets-sansio"}
    servers = [
        uvicorn.Server(uvicorn.Config(_echo, uds=str(paths.facade_http(0)), **options)),
        uvicorn.Server(uvicorn.Config(_echo, host="127.0.0.1", port=port, **options)),
    ]

    async def serve() -> None:
        await asyncio.gather(*(server.serve() for server in servers))

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    while not all(server.started for server in servers):
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield
    finally:
        for server in servers:
            server.should_exit = True
            server.force_exit = True
        thread.join(60)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        await send({"type": "websocket.send", "text": json.dumps({"headers": headers})})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    if b"sleep=" in scope["query_string"]:
        await asyncio.sleep(float(scope["query_string"].partition(b"sleep=")[2]))
    answer = {"path": scope["path"], "headers": headers, "length": length}
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json")],
    }
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def base64url(data: bytes | dict[str, Any]) -> str:
    """As the parts of a token are written."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
