"""Triton's entry point of the engine model."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from ..metrics import BUSY, Meters, Registry
from .batch import Failed
from .stage import EncoderStage


class TritonPythonModel:
    """``input_ids`` INT32 [b, n] to embeddings, or to class labels and scores."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine, try it on one token, and create the metrics.

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
        self._stage = EncoderStage(pb_utils, args, registry)
        self._meters = Meters(registry)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute all requests together; an error concerns the requests that caused it."""
        get_input = pb_utils.get_input_tensor_by_name
        inputs = [get_input(request, "input_ids").as_numpy() for request in requests]
        batch = self._stage.run(requests, inputs, self._meters)
        responses = []
        for request, result in zip(requests, batch.results, strict=True):
            if isinstance(result, Failed):
                responses.append(self._stage.refuse(request, result))
            else:
                outputs = self._stage.outputs(result, request.requested_output_names())
                responses.append(pb_utils.InferenceResponse(list(outputs)))
        return responses

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._meters.close()
        self._stage.close()
