"""Stream an answer over gRPC with tritonclient alone; Ctrl-C stops it, on the server too.

A client holds one such stream at a time (``clients.Client.stream`` has no such limit). Run it with
``python -m clients.examples.generate_stream --url localhost:8001 --model smollm2 "Why is the sky blue?"``.
"""

import argparse
import json
import queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def tensor(name: str, value: Any, datatype: str, dtype: Any) -> triton.InferInput:
    """Return an input of one value."""
    made = triton.InferInput(name, [1], datatype)
    made.set_data_from_numpy(np.array([value], dtype=dtype))
    return made


def main() -> None:
    """Ask as a chat's first message, and print the answer as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", default="smollm2", help="a model that generates text")
    args = parser.parse_args()

    messages = json.dumps([{"role": "user", "content": args.question}])
    inputs = [
        tensor("messages", messages.encode(), "BYTES", np.object_),
        tensor("max_tokens", 100, "INT32", np.int32),
        tensor("stream", True, "BOOL", np.bool_),
    ]
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(args.url) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer(args.model, inputs)
        finish = None
        try:
            while finish is None:
                result, error = answers.get(timeout=60)
                if error is not None:
                    raise SystemExit(f"failed: {error}")
                print(result.as_numpy("text_output")[0].decode(), end="", flush=True)
                finish = result.as_numpy("finish_reason")
            print(f"\n({result.as_numpy('completion_tokens')[0]} tokens, {finish[0].decode()})")
        finally:
            client.stop_stream(cancel_requests=finish is None)


if __name__ == "__main__":
    main()
