"""Triton's entry point of the fused model."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from ..encoder.batch import Failed
from ..encoder.stage import EncoderStage
from ..metrics import BUSY, Meters, Registry
from ..tokenizer.batch import Rejection, count_tokens
from ..tokenizer.stage import TokenizerStage


class TritonPythonModel:
    """Texts STRING [b, 1] to embeddings, or to class labels and scores, and ``token_count`` INT32 [b, 1]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load tokenizer and engine, and create the metrics.

        Args:
            args: Triton's description of the model: ``model_config`` (JSON), ``model_repository``
                (the model's folder), ``model_name``, ``model_version``.

        Raises:
            SettingsError: A parameter is missing or not allowed.
            FileNotFoundError: The model file or ``labels.txt`` is not there.
            ValueError: The model has not the outputs that the task needs.
        """
        registry = Registry(pb_utils, args)
        registry.counter(BUSY, "Time in which an instance executed")
        self._tokenizer = TokenizerStage(pb_utils, args, registry)
        self._encoder = EncoderStage(pb_utils, args, registry)
        self._meters = Meters(registry)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize and compute all requests together; an error concerns the requests that caused it."""
        tokenized = self._tokenizer.run(requests, self._meters).results
        accepted = [place for place, ids in enumerate(tokenized) if not isinstance(ids, Rejection)]
        responses = [self._tokenizer.refuse(ids) if isinstance(ids, Rejection) else None for ids in tokenized]
        if not accepted:
            return responses
        inputs = [ids for ids in tokenized if not isinstance(ids, Rejection)]
        batch = self._encoder.run([requests[place] for place in accepted], inputs, self._meters)
        for place, ids, result in zip(accepted, inputs, batch.results, strict=True):
            request = requests[place]
            if isinstance(result, Failed):
                responses[place] = self._encoder.refuse(request, result)
                continue
            wanted = request.requested_output_names()
            tensors = list(self._encoder.outputs(result, wanted))
            if "token_count" in wanted:
                tensors.append(pb_utils.Tensor("token_count", count_tokens(ids)))
            responses[place] = pb_utils.InferenceResponse(tensors)
        return responses

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._meters.close()
        self._tokenizer.close()
        self._encoder.close()
