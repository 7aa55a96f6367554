"""Triton's entry point of the engine model."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..metrics import Counters, Registry
from ..runners import load_runner
from ..settings import EncoderSettings
from .answers import Answers, ClassificationAnswers, EmbeddingAnswers, read_labels
from .batch import BatchEncoder, EncodedBatch, Failed, Failure

TOKENS = "tritonforge_tokens_total"
SEQUENCES = "tritonforge_sequences_total"
RUNS = "tritonforge_runs_total"
PADDING_AVOIDED = "tritonforge_padding_avoided_tokens_total"
RUN_TOKENS = "tritonforge_run_tokens_bucket"
CANCELLED = "tritonforge_cancelled_requests_total"

RUN_TOKENS_BOUNDS = (16, 64, 256, 1024, 4096, 16384)


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
        self._encoder = BatchEncoder(runner, settings)
        width = self._encoder.probe()
        self._answers: Answers = (
            EmbeddingAnswers()
            if settings.task == "embedding"
            else ClassificationAnswers(read_labels(folder, width))
        )
        self._registry = _create_metrics(args["model_name"], args["model_version"])
        self._counters = Counters(self._registry.metrics)
        self._codes = {
            Failure.INVALID: pb_utils.TritonError.INVALID_ARG,
            Failure.CANCELLED: pb_utils.TritonError.CANCELLED,
            Failure.ENGINE: pb_utils.TritonError.INTERNAL,
        }
        pb_utils.Logger.log_info(
            f"{args['model_name']}: {settings.engine} {settings.precision}, {settings.layout}, "
            f"{runner.threads} thread(s), at most {settings.token_budget} tokens in a run, width {width}"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute all requests together; an error concerns the requests that caused it."""
        get_input = pb_utils.get_input_tensor_by_name
        batch = self._encoder.encode(
            [get_input(request, "input_ids").as_numpy() for request in requests],
            lambda index: bool(requests[index].is_cancelled()),
        )
        tensor, respond = pb_utils.Tensor, pb_utils.InferenceResponse
        responses = []
        for request, result in zip(requests, batch.results, strict=True):
            if isinstance(result, Failed):
                responses.append(respond(error=self._error(result)))
            else:
                outputs = self._answers.outputs(result, request.requested_output_names())
                responses.append(respond([tensor(name, value) for name, value in outputs]))
        self._counters.add(_counts(batch))
        return responses

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._counters.close()

    def _error(self, failed: Failed) -> Any:
        if failed.kind is Failure.ENGINE:
            pb_utils.Logger.log_error(failed.message)
        return pb_utils.TritonError(failed.message, self._codes[failed.kind])


def _create_metrics(model: str, version: str) -> Registry:
    registry = Registry(pb_utils, {"model": model, "version": version})
    registry.counter(TOKENS, "Tokens computed, without padding")
    registry.counter(SEQUENCES, "Texts computed")
    registry.counter(RUNS, "Runs of the engine")
    registry.counter(PADDING_AVOIDED, "Padding tokens that one rectangle per execution would have added")
    registry.counter(CANCELLED, "Cancelled requests dropped before they cost compute")
    registry.labelled(
        RUN_TOKENS,
        "Runs of at most so many tokens",
        "le",
        {str(bound): f"le_{bound}" for bound in (*RUN_TOKENS_BOUNDS, "+Inf")},
    )
    return registry


def _counts(batch: EncodedBatch) -> dict[str, int]:
    counts = {
        TOKENS: sum(batch.run_tokens),
        SEQUENCES: batch.sequences,
        RUNS: len(batch.run_tokens),
        PADDING_AVOIDED: batch.padding_avoided,
        CANCELLED: sum(
            isinstance(result, Failed) and result.kind is Failure.CANCELLED for result in batch.results
        ),
        "le_+Inf": len(batch.run_tokens),
    }
    for tokens in batch.run_tokens:
        # Cumulative, as Prometheus wants it: a run counts in every bucket that it fits.
        for bound in RUN_TOKENS_BOUNDS[bisect_left(RUN_TOKENS_BOUNDS, tokens) :]:
            key = f"le_{bound}"
            counts[key] = counts.get(key, 0) + 1
    return counts
