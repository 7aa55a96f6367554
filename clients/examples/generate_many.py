"""Generate many answers at once with asyncio over gRPC: the server computes them together, step by step.

Run it with ``python -m clients.examples.generate_many --url localhost:8001 --model smollm2``.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton


async def generate(client: triton.InferenceServerClient, model: str, prompt: str) -> tuple[str, int]:
    """Return the continuation of a prompt, and its tokens."""
    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_))
    tokens = triton.InferInput("max_tokens", [1], "INT32")
    tokens.set_data_from_numpy(np.array([30], dtype=np.int32))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": model, "inputs": [text, tokens]}

    # A decoupled model answers on a stream only, though without the input `stream` in one response.
    async for result, error in client.stream_infer(requests(), stream_timeout=120):
        if error is not None:
            raise SystemExit(f"failed: {error}")
        return result.as_numpy("text_output")[0].decode(), int(result.as_numpy("completion_tokens")[0])
    raise SystemExit("failed: no answer")


async def run(url: str, model: str, requests: int) -> None:
    """Send all prompts at the same time over one connection."""
    prompts = [f"The number {number} is" for number in range(requests)]
    async with triton.InferenceServerClient(url) as client:
        start = time.perf_counter()
        answers = await asyncio.gather(*(generate(client, model, prompt) for prompt in prompts))
        seconds = time.perf_counter() - start
    print(f"{prompts[0]}{answers[0][0]}")
    print(f"{requests} answers, {sum(count for _, count in answers) / seconds:.0f} tokens/s in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", default="smollm2", help="a model that generates text")
    parser.add_argument("--requests", type=int, default=16, help="requests in flight at once")
    args = parser.parse_args()
    asyncio.run(run(args.url, args.model, args.requests))
