"""Triton's entry point of the fan-out model."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ..encoder.answers import Answers, ClassificationAnswers, EmbeddingAnswers, read_labels
from ..logs import RequestLog, line
from ..metrics import Meters, Registry
from ..packing import FloatArray, Int32Array
from ..settings import FanoutSettings
from .rows import EngineAnswerError, InvalidRequestError, join, split

ROWS = "tritonforge_fanout_rows_total"
CANCELLED = "tritonforge_fanout_cancelled_requests_total"


class _RowFailed(Exception):  # noqa: N818  # carries an answer, is not raised to a caller
    """The engine answered a row with an error."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.code = error.code()


class TritonPythonModel:
    """``input_ids`` INT32 [b, n] to embeddings, or to class labels and scores, by way of the engine model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings, and make as many threads as rows may be under way.

        Args:
            args: Triton's description of the model: ``model_config`` (JSON), ``model_repository``
                (the model's folder), ``model_name``, ``model_version``.

        Raises:
            SettingsError: A parameter is missing or not allowed.
            FileNotFoundError: ``labels.txt`` is not there.
        """
        self._settings = FanoutSettings.parse(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._answers: Answers = (
            EmbeddingAnswers()
            if self._settings.task == "embedding"
            else ClassificationAnswers(read_labels(folder, self._settings.width))
        )
        # The stub waits for each row in a thread of the event loop's executor, by default one for each
        # core and four more: so few rows would reach the engine's batcher at a time.
        self._executor = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="row")
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        registry = Registry(pb_utils, args)
        registry.counter(ROWS, "Rows sent to the engine")
        registry.counter(CANCELLED, "Cancelled requests dropped before their rows were sent")
        self._meters = Meters(registry)
        self._log = RequestLog(pb_utils.Logger, args["model_name"])
        pb_utils.Logger.log_info(
            line(
                "fanout_loaded",
                model=args["model_name"],
                engine_model=self._settings.engine_model,
                concurrency=self._settings.concurrency,
            )
        )

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Send all rows of all requests at once; an error concerns the request of its row only."""
        asyncio.get_running_loop().set_default_executor(self._executor)
        return await asyncio.gather(*(self._answer(request) for request in requests))

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._executor.shutdown()
        self._meters.close()

    async def _answer(self, request: Any) -> Any:
        """Fan one request out and give its response."""
        error = pb_utils.TritonError
        matrix = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
        try:
            rows = split(matrix, self._settings)
            if len(rows) > 1 and request.is_cancelled():
                self._meters.add({CANCELLED: 1})
                return _failed("the request was cancelled", error.CANCELLED)
            result = await self._rows(request, rows)
        except InvalidRequestError as refused:
            self._log.refused(request, "invalid")
            return _failed(str(refused), error.INVALID_ARG)
        except _RowFailed as refused:
            return _failed(str(refused), refused.code)
        except EngineAnswerError as wrong:
            self._log.failed(request, str(wrong))
            return _failed(str(wrong), error.INTERNAL)
        outputs = self._answers.outputs(result, request.requested_output_names())
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs])

    async def _rows(self, request: Any, rows: list[Int32Array]) -> FloatArray:
        """Answers to the rows of one request, in order.

        All are awaited even if one fails: a row that nobody waits for would keep its thread.
        """
        self._meters.add({ROWS: len(rows)})
        calls = [self._row(request, ids, number, len(rows)) for number, ids in enumerate(rows)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        arrays = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            arrays.append(answer)
        return join(arrays, self._settings.width)

    async def _row(self, request: Any, ids: Int32Array, number: int, count: int) -> NDArray[Any]:
        """Have one row computed: INT32 [1, n] to FP32 [1, width]."""
        settings = self._settings
        inputs = [pb_utils.Tensor("input_ids", ids)]
        if settings.layout == "padded":
            inputs.append(pb_utils.Tensor("attention_mask", np.ones_like(ids)))
        response = await pb_utils.InferenceRequest(
            model_name=settings.engine_model,
            inputs=inputs,
            requested_output_names=[settings.output],
            request_id=request.request_id(),
            timeout=request.timeout(),
            # The TensorRT backend would else hand out GPU memory.
            preferred_memory=self._memory,
            trace=request.trace(),
        ).async_exec()
        if response.has_error():
            raise _RowFailed(_with_row(response.error(), number, count))
        return np.asarray(pb_utils.get_output_tensor_by_name(response, settings.output).as_numpy())


def _failed(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _with_row(error: Any, number: int, count: int) -> Any:
    """The engine's error, with the row it concerns where there are several."""
    if count == 1:
        return error
    return pb_utils.TritonError(f"text at index {number}: {error.message()}", error.code())
