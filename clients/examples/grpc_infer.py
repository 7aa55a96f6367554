"""Embed texts over gRPC, and compare them.

Run it with ``python -m clients.examples.grpc_infer --url localhost:8001 --model minilm``.
"""

import argparse

import numpy as np
import tritonclient.grpc as triton

TEXTS = ["How do I reset my password?", "I cannot log in to my account.", "The parcel arrived broken."]


def main() -> None:
    """Send one request of three texts and print their cosine similarities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", default="minilm", help="an embedding model")
    args = parser.parse_args()

    text = triton.InferInput("text", [len(TEXTS), 1], "BYTES")
    text.set_data_from_numpy(np.array([[t.encode()] for t in TEXTS], dtype=np.object_))
    with triton.InferenceServerClient(args.url) as client:
        result = client.infer(
            args.model,
            [text],
            outputs=[triton.InferRequestedOutput("embedding")],
            client_timeout=30,  # seconds; without it a call may wait for ever
        )
    vectors = result.as_numpy("embedding")
    print("embedding", vectors.dtype, vectors.shape)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    print(np.round(vectors @ vectors.T, 3))


if __name__ == "__main__":
    main()
