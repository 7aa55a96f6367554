"""``grpc.health.v1``: whether what the door offers over gRPC can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from gateway.facade.grpc.boundary import Context
from gateway.triton.models import ModelDirectory

_LOOK_S = 1.0


class Health(HealthServicer):  # type: ignore[misc]  # the base is untyped
    """Follows the models: SERVING while every pool answers and a model is served, as ``/ready`` says.

    grpcio-health-checking's own servicer forgets the watchers that remain when one of several leaves.

    Args:
        models: What is served.
        services: Names of services; the empty name, which stands for all, is added.
    """

    def __init__(self, models: ModelDirectory, services: Collection[str]) -> None:
        """Take the services."""
        self._models = models
        self._services = {"", *services}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on nothing serves; watchers are told, and let go."""
        self._stopping.set()

    # The name that the generated base gives it.
    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802
        """How a service is now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:100]}")
        return HealthCheckResponse(status=self._status(request.service))

    # The name that the generated base gives it.
    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """How a service is now, and each time that this changes."""
        told = None
        while True:
            stopping = self._stopping.is_set()
            status = self._status(request.service)
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            if stopping:
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), _LOOK_S)
            except TimeoutError:
                continue

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        ready = self._models.models and not self._models.faults and not self._stopping.is_set()
        return int(HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING)
