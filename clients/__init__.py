"""Clients of an embedding or classification ensemble on Triton, blocking and asyncio, over gRPC and HTTP.

::

    from clients import Client

    with Client("localhost:8001", "minilm") as client:
        vectors = client.embed(["How do I reset my password?", "Where is my parcel?"])  # float32 [2, dim]

The package needs only tritonclient and numpy. ``clients/examples/`` shows the same calls with
tritonclient alone.
"""

from clients.aio import AsyncClient
from clients.client import Client
from clients.core import Classification, ModelMetadata, Prediction, RetryPolicy, TensorSpec
from clients.errors import (
    ClientError,
    InvalidRequestError,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerFaultError,
    SharedMemoryError,
    UnavailableError,
)

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "ClientError",
    "InvalidRequestError",
    "ModelMetadata",
    "ModelNotFoundError",
    "Prediction",
    "RequestTimeoutError",
    "RetryPolicy",
    "ServerFaultError",
    "SharedMemoryError",
    "TensorSpec",
    "UnavailableError",
]
