"""Token ids of Triton's requests become answers: counted, logged and traced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..logs import RequestLog, line
from ..metrics import Meters, Registry
from ..packing import FloatArray
from ..runners import load_runner
from ..settings import EncoderSettings
from .answers import Answers, ClassificationAnswers, EmbeddingAnswers, read_labels
from .batch import BatchEncoder, EncodedBatch, Failed, Failure
from .metrics import count, register
from .tracing import trace_batches


class EncoderStage:
    """The engine of one model.

    Args:
        pb_utils: The module ``triton_python_backend_utils``.
        args: What Triton gives ``initialize``.
        registry: Gets the metrics.

    Raises:
        SettingsError: A parameter is missing or not allowed.
        FileNotFoundError: The model file or ``labels.txt`` is not there.
        ValueError: The model has not the outputs that the task needs.
    """

    def __init__(self, pb_utils: Any, args: Mapping[str, str], registry: Registry) -> None:
        """Load the engine, and try it on one token."""
        self._pb_utils = pb_utils
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
        self._codes = {
            Failure.INVALID: pb_utils.TritonError.INVALID_ARG,
            Failure.CANCELLED: pb_utils.TritonError.CANCELLED,
            Failure.ENGINE: pb_utils.TritonError.INTERNAL,
        }
        register(registry)
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

    def run(self, requests: Sequence[Any], inputs: Sequence[NDArray[Any]], meters: Meters) -> EncodedBatch:
        """Compute all requests together.

        Args:
            requests: Triton's.
            inputs: For each of them INT32 [b, n], filler after the end of shorter texts.
            meters: Counts it.
        """
        started = time.perf_counter()
        if self._tracer is not None:
            self._tracer.begin()
        batch = self._encoder.encode(inputs, lambda index: bool(requests[index].is_cancelled()))
        if self._tracer is not None:
            self._tracer.end(requests, inputs, batch)
        count(meters, batch, time.perf_counter() - started)
        return batch

    def outputs(self, result: FloatArray, requested: AbstractSet[str]) -> Iterator[Any]:
        """Give the task's output tensors that are asked for."""
        for name, value in self._answers.outputs(result, requested):
            yield self._pb_utils.Tensor(name, value)

    def refuse(self, request: Any, failed: Failed) -> Any:
        """The response to a request without a result, which is logged."""
        if failed.kind is Failure.ENGINE:
            self._log.failed(request, failed.message)
        elif failed.kind is Failure.INVALID:
            self._log.refused(request, failed.kind.value)
        error = self._pb_utils.TritonError(failed.message, self._codes[failed.kind])
        return self._pb_utils.InferenceResponse(error=error)

    def close(self) -> None:
        """Send the last spans."""
        if self._tracer is not None:
            self._tracer.close()
