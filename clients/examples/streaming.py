"""Embed texts over one gRPC stream: requests go out and answers come back as they are ready.

The same code serves decoupled models, which send several answers to a request. Answers may come out
of order, so each carries its request's id. A client holds one stream at a time, and a stream belongs
to one thread. Run it with ``python -m clients.examples.streaming --url localhost:8001 --model minilm``.
"""

import argparse
import queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton

TEXTS = ["How do I reset my password?", "I cannot log in to my account.", "The parcel arrived broken."]


def main() -> None:
    """Send a request for each text over one stream and print the answers as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", default="minilm", help="an embedding model")
    args = parser.parse_args()

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(args.url) as client:
        # The callback runs in the stream's thread: hand the answer over and return.
        client.start_stream(callback=lambda result, error: answers.put((result, error)), stream_timeout=30)
        for number, text in enumerate(TEXTS):
            tensor = triton.InferInput("text", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
            client.async_stream_infer(args.model, [tensor], request_id=str(number))
        for _ in TEXTS:
            result, error = answers.get(timeout=30)
            if error is not None:
                raise SystemExit(f"failed: {error}")
            text = TEXTS[int(result.get_response().id)]
            print(f"{text:32} {np.round(result.as_numpy('embedding')[0, :4], 3)} ...")
        client.stop_stream()


if __name__ == "__main__":
    main()
