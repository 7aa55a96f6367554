"""sentence-transformers in BentoML, with its adaptive batching."""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

import bentoml
import numpy as np
from embedder import BATCH, load


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Embedder:
    """One encode call for all requests of a batch."""

    def __init__(self) -> None:
        """Load the model in the worker."""
        self.model = load()

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def embed(self, texts: list[str]) -> np.ndarray:
        """Embed a list of texts."""
        return self.model.encode(texts)
