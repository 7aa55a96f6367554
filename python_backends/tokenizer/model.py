"""Triton's entry point of the tokenizer model."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from ..metrics import BUSY, Meters, Registry
from .batch import Rejection, count_tokens
from .stage import TokenizerStage


class TritonPythonModel:
    """Texts STRING [b, 1] to ``input_ids`` INT32 [b, n], and ``token_count`` INT32 [b, 1]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load ``tokenizer.json`` of the version folder and create the metrics.

        Args:
            args: Triton's description of the model: ``model_config`` (JSON), ``model_repository``
                (the model's folder), ``model_name``, ``model_version``.

        Raises:
            SettingsError: A parameter is missing or not allowed.
        """
        registry = Registry(pb_utils, args)
        registry.counter(BUSY, "Time in which an instance executed")
        self._stage = TokenizerStage(pb_utils, args, registry)
        self._meters = Meters(registry)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize the texts of all requests in one call; an error concerns one request only."""
        batch = self._stage.run(requests, self._meters)
        responses = []
        for request, result in zip(requests, batch.results, strict=True):
            if isinstance(result, Rejection):
                responses.append(self._stage.refuse(result))
                continue
            tensors = [pb_utils.Tensor("input_ids", result)]
            if "token_count" in request.requested_output_names():
                tensors.append(pb_utils.Tensor("token_count", count_tokens(result)))
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._meters.close()
        self._stage.close()
