"""Embed texts with the numbers passing through shared memory, on the server's own host.

Run it with ``python -m clients.examples.shared_memory --url localhost:8001 --model minilm``. A server
in a container needs ``--ipc=host``, and since 26.04 any server needs ``--allow-client-shm=true``.
"""

import argparse
import uuid

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

TEXTS = ["How do I reset my password?", "I cannot log in to my account.", "The parcel arrived broken."]


def main() -> None:
    """Lay texts and room for the embeddings into one region, infer, and read the embeddings there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:8001", help="host:port of the gRPC endpoint")
    parser.add_argument("--model", default="minilm", help="an embedding model")
    args = parser.parse_args()

    client = triton.InferenceServerClient(args.url)
    dim = client.get_model_metadata(args.model).outputs[0].shape[-1]
    payload = serialize_byte_tensor(np.array([[t.encode()] for t in TEXTS], dtype=np.object_)).item()
    start = (len(payload) + 63) // 64 * 64  # the embeddings, aligned
    size = len(TEXTS) * dim * 4
    name = f"example-{uuid.uuid4().hex}"
    region = shm.create_shared_memory_region(name, f"/{name}", start + size, create_only=True)
    try:
        shm.set_shared_memory_region(region, [np.frombuffer(payload, np.uint8)])
        client.register_system_shared_memory(name, f"/{name}", start + size)
        text = triton.InferInput("text", [len(TEXTS), 1], "BYTES")
        text.set_shared_memory(name, len(payload))
        embedding = triton.InferRequestedOutput("embedding")
        embedding.set_shared_memory(name, size, start)
        client.infer(args.model, [text], outputs=[embedding], client_timeout=30)
        vectors = shm.get_contents_as_numpy(region, np.float32, [len(TEXTS), dim], start).copy()
    finally:
        shm.destroy_shared_memory_region(region)  # the server keeps its own mapping
        client.unregister_system_shared_memory(name)
        client.close()
    print("embedding", vectors.dtype, vectors.shape, np.round(vectors[0, :4], 3), "...")


if __name__ == "__main__":
    main()
