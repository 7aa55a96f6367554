"""Clients of models on Triton that embed, classify or generate: blocking and asyncio, gRPC and HTTP.

::

    from clients import Client

    with Client("localhost:8001", "minilm") as client:
        vectors = client.embed(["How do I reset my password?", "Where is my parcel?"])  # float32 [2, dim]

    with Client("localhost:8001", "smollm2") as client:
        for piece in client.chat_stream([{"role": "user", "content": "Hello"}], max_tokens=100):
            print(piece.text, end="", flush=True)

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
from clients.generating import Stream
from clients.generating_aio import AsyncStream
from clients.generation import Completion, Message, Piece, Sampling

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Classification",
    "Client",
    "ClientError",
    "Completion",
    "InvalidRequestError",
    "Message",
    "ModelMetadata",
    "ModelNotFoundError",
    "Piece",
    "Prediction",
    "RequestTimeoutError",
    "RetryPolicy",
    "Sampling",
    "ServerFaultError",
    "SharedMemoryError",
    "Stream",
    "TensorSpec",
    "UnavailableError",
]
