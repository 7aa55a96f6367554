"""The gRPC server on the real tritonserver, and a channel to it as Envoy would have."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio
import httpx
import pytest
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from gateway.config import GatewayConfig
from gateway.facade.grpc import start_grpc
from gateway.facade.grpc.server import GrpcServer
from gateway.facade.state import Facade
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from tests.gateway.conftest import ALICE, FacadeApp

METADATA = tuple(ALICE.items())


@dataclass(frozen=True)
class Door:
    """A running server.

    Attributes:
        channel: To it.
        stub: ModelService, for alice if called with ``metadata=METADATA``.
        facade: What is behind.
        rest: The same facade over HTTP.
        target: Its address.
        server: Itself.
    """

    channel: grpc.aio.Channel
    stub: ModelServiceStub
    facade: Facade
    rest: httpx.AsyncClient
    target: str
    server: GrpcServer


D = TypeVar("D", bound=Message)


def told(status: Status, kind: type[D]) -> D:
    """The detail of a kind."""
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {status}")


OpenDoor = Callable[..., AbstractAsyncContextManager[Door]]


@pytest.fixture
def grpc_door(facade_app: FacadeApp) -> OpenDoor:
    """Opens it: ``async with grpc_door(config) as d``."""

    @contextlib.asynccontextmanager
    async def open_door(config: GatewayConfig | None = None, **options: Any) -> AsyncIterator[Door]:
        async with facade_app(config) as running:
            server = await start_grpc(running.facade, "127.0.0.1:0")
            target = f"127.0.0.1:{server.port}"
            try:
                async with grpc.aio.insecure_channel(
                    target, [("grpc.enable_http_proxy", 0)], **options
                ) as channel:
                    yield Door(
                        channel, ModelServiceStub(channel), running.facade, running.client, target, server
                    )
            finally:
                await server.stop(5)

    return open_door
