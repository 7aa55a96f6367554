"""Embed many texts at once with asyncio over gRPC: single-text requests that the server batches.

Run it with ``python -m clients.examples.asyncio_infer --url localhost:8001 --model minilm``.
"""

import argparse
import asyncio
import time

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray


async def embed(client: triton.InferenceServerClient, model: str, text: str) -> NDArray[np.float32]:
    """Return the embedding of one text, float32 [dim]."""
    tensor = triton.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
    result = await client.infer(model, [tensor], client_timeout=30)
    vector: NDArray[np.float32] = result.as_numpy("embedding")[0]
    return vector


async def run(url: str, model: str, requests: int) -> None:
    """Send all requests at the same time over one connection, and print how long they took."""
    texts = [f"Order {number} has not arrived yet." for number in range(requests)]
    # One client for the life of the program: a client for each request costs a connection each, and
    # grpcio does not free all of what a channel held that was not closed.
    async with triton.InferenceServerClient(url) as client:
        start = time.perf_counter()
        vectors = np.stack(await asyncio.gather(*(embed(client, model, text) for text in texts)))
        seconds = time.perf_counter() - start
    print(f"{len(vectors)} embeddings of {vectors.shape[1]} numbers, {len(vectors) / seconds:.0f} a second")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", default="minilm", help="an embedding model")
    parser.add_argument("--requests", type=int, default=64, help="requests in flight at once")
    args = parser.parse_args()
    asyncio.run(run(args.url, args.model, args.requests))


if __name__ == "__main__":
    main()
