"""Triton's entry point of the engine model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..logs import RequestLog, line
from ..runners import load_runner
from ..settings import EncoderSettings
from .answers import Answers, ClassificationAnswers, EmbeddingAnswers, read_labels
from .batch import BatchEncoder, Failed, Failure
from .metrics import count, create_meters
from .tracing import trace_batches


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
        settings = EncoderSettings.parse(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        runner = load_runner(settings, folder)
        runner, self._tracer = trace_batches(runner, args["model_name"], pb_utils.Logger.log_warn)
        self._encoder = BatchEncoder(runner, settings)
        width = self._encoder.probe()
        self._answers: Answers = (
            EmbeddingAnswers()
            if settings.task == "embedding"
            else ClassificationAnswers(read_labels(folder, width))
        )
        self._meters = create_meters(pb_utils, args)
        self._codes = {
            Failure.INVALID: pb_utils.TritonError.INVALID_ARG,
            Failure.CANCELLED: pb_utils.TritonError.CANCELLED,
            Failure.ENGINE: pb_utils.TritonError.INTERNAL,
        }
        self._log = RequestLog(pb_utils.Logger, args["model_name"])
        pb_utils.Logger.log_info(
            line(
                "engine_loaded",
                model=args["model_name"],
                engine=settings.engine,
                precision=settings.precision,
                layout=settings.layout,
                threads=runner.threads,
                token_budget=settings.token_budget,
                width=width,
            )
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute all requests together; an error concerns the requests that caused it."""
        started = time.perf_counter()
        get_input = pb_utils.get_input_tensor_by_name
        inputs = [get_input(request, "input_ids").as_numpy() for request in requests]
        if self._tracer is not None:
            self._tracer.begin()
        batch = self._encoder.encode(inputs, lambda index: bool(requests[index].is_cancelled()))
        tensor, respond = pb_utils.Tensor, pb_utils.InferenceResponse
        responses = []
        for request, result in zip(requests, batch.results, strict=True):
            if isinstance(result, Failed):
                responses.append(respond(error=self._error(request, result)))
            else:
                outputs = self._answers.outputs(result, request.requested_output_names())
                responses.append(respond([tensor(name, value) for name, value in outputs]))
        if self._tracer is not None:
            self._tracer.end(requests, inputs, batch)
        count(self._meters, batch, time.perf_counter() - started)
        return responses

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._meters.close()
        if self._tracer is not None:
            self._tracer.close()

    def _error(self, request: Any, failed: Failed) -> Any:
        if failed.kind is Failure.ENGINE:
            self._log.failed(request, failed.message)
        elif failed.kind is Failure.INVALID:
            self._log.refused(request, failed.kind.value)
        return pb_utils.TritonError(failed.message, self._codes[failed.kind])
