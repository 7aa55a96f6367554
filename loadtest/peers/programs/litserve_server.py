"""sentence-transformers in LitServe, with its dynamic batching."""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

import os

import litserve
from embedder import BATCH, load


class Embedder(litserve.LitAPI):
    """One encode call for all requests of a batch."""

    def setup(self, device):
        """Load the model in the worker."""
        self.model = load()

    def decode_request(self, request):
        """Take the text."""
        return request["text"]

    def predict(self, texts):
        """Embed a list of texts."""
        return self.model.encode(texts)

    def encode_response(self, vector):
        """One text's numbers."""
        return {"embedding": vector.tolist()}


if __name__ == "__main__":
    api = Embedder(max_batch_size=BATCH, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
