"""gRPC: ModelService, health and reflection, on a socket of each facade process."""

from gateway.facade.grpc.server import start_grpc

__all__ = ["start_grpc"]
