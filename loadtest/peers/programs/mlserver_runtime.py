"""sentence-transformers as a custom runtime of MLServer; its adaptive batching makes the batches."""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

from embedder import load
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Embedder(MLModel):
    """One encode call for what the batcher put together."""

    async def load(self) -> bool:
        """Load the model in the worker."""
        self._model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Embed the texts of the input."""
        texts = StringCodec.decode_input(payload.inputs[0])
        vectors = self._model.encode(texts)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("embedding", vectors)]
        )
