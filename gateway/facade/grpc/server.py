"""The gRPC server of a facade process."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from gateway.errors import GatewayError
from gateway.facade.grpc.health import Health
from gateway.facade.grpc.service import SERVICE, ModelService
from gateway.facade.state import Facade

KSERVE = "inference.GRPCInferenceService"
"""Served by Triton through the same door; its descriptors come with tritonclient."""
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
_METADATA_BYTES = 64 << 10


class GrpcServer:
    """A running server.

    Attributes:
        port: Where it listens; 1 for a Unix socket.
    """

    def __init__(self, server: grpc.aio.Server, health: Health, port: int) -> None:
        """Take what was started."""
        self._server = server
        self._health = health
        self.port = port

    async def stop(self, grace: float | None) -> None:
        """Take no new RPCs; let those at work finish, and cancel them after ``grace`` seconds."""
        self._health.stop()
        await self._server.stop(grace)


async def start_grpc(facade: Facade, address: str) -> GrpcServer:
    """Serve ModelService, health and reflection.

    Args:
        facade: The services behind; it must outlive the server.
        address: ``unix:/path``, or ``host:port``; port 0 is a free one.

    Raises:
        GatewayError: It cannot listen there.
    """
    options = [
        ("grpc.max_receive_message_length", facade.config.limits.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((ModelService(facade).handlers(),))
    served = Health(facade.models, (SERVICE, health.SERVICE_NAME, KSERVE))
    health_pb2_grpc.add_HealthServicer_to_server(served, server)
    _add_reflection(server)
    try:
        port = server.add_insecure_port(address)
        await server.start()
    except RuntimeError as error:
        raise GatewayError(
            "cannot listen there", where=address, mend="see whether it is in use, or its folder missing"
        ) from error
    return GrpcServer(server, served, port)


def _add_reflection(server: grpc.aio.Server) -> None:
    """Reflection by both its names: v1 has the messages of v1alpha, and newer clients ask for it alone."""
    names = (SERVICE, health.SERVICE_NAME, KSERVE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        ServerReflectionRequest.FromString,
        ServerReflectionResponse.SerializeToString,
    )
    v1 = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((v1,))
