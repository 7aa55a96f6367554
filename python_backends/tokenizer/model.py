"""Triton's entry point of the tokenizer model."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..logs import RequestLog, line
from ..metrics import BUSY, Meters, Registry
from ..settings import TokenizerSettings
from ..threads import physical_cores
from ..tracing import start_tracer
from .batch import REASONS, BatchTokenizer, Rejection, count_tokens
from .tracing import tokenizing

TOKENS = "tritonforge_tokenized_tokens_total"
TRUNCATED = "tritonforge_truncated_texts_total"
REJECTED = "tritonforge_rejected_requests_total"


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
        settings = TokenizerSettings.parse(args["model_config"])
        # A text takes the tokenizer a hundredth of what the engine needs for it, so one thread
        # keeps up with a CPU engine, and the cores are the engine's.
        threads = settings.threads or max(1, physical_cores() // 8)
        # The thread pool reads these once, at the first batch.
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = BatchTokenizer(folder / "tokenizer.json", settings)

        registry = Registry(pb_utils, args)
        registry.counter(BUSY, "Time in which an instance executed")
        registry.counter(TOKENS, "Tokens that texts became, special tokens included")
        registry.counter(TRUNCATED, "Texts cut to max_length tokens")
        registry.labelled(
            REJECTED, "Requests answered with an error", "reason", {reason: reason for reason in REASONS}
        )
        self._meters = Meters(registry)
        self._tracer = start_tracer(args["model_name"], pb_utils.Logger.log_warn)
        self._log = RequestLog(pb_utils.Logger, args["model_name"])
        pb_utils.Logger.log_info(
            line(
                "tokenizer_loaded",
                model=args["model_name"],
                threads=threads,
                max_length=settings.max_length,
                max_text_bytes=settings.max_text_bytes,
            )
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Tokenize the texts of all requests in one call; an error concerns one request only."""
        started = time.perf_counter()
        get_input = pb_utils.get_input_tensor_by_name
        began = time.time_ns() if self._tracer is not None else 0
        batch = self._tokenizer.tokenize([get_input(request, "text").as_numpy() for request in requests])
        counts: dict[str, float] = {TOKENS: batch.tokens, TRUNCATED: batch.truncated}
        responses = []
        for request, result in zip(requests, batch.results, strict=True):
            if isinstance(result, Rejection):
                self._log.refused(request, result.reason)
                counts[result.reason] = counts.get(result.reason, 0) + 1
                error = pb_utils.TritonError(result.message, pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
            else:
                tensors = [pb_utils.Tensor("input_ids", result)]
                if "token_count" in request.requested_output_names():
                    tensors.append(pb_utils.Tensor("token_count", count_tokens(result)))
                responses.append(pb_utils.InferenceResponse(tensors))
        if self._tracer is not None and (contexts := self._tracer.contexts(requests)):
            self._tracer.record_batch(contexts, tokenizing(batch, began, time.time_ns()))
        counts[BUSY] = time.perf_counter() - started
        self._meters.add(counts)
        return responses

    def finalize(self) -> None:
        """Hand over the last counts."""
        self._meters.close()
        if self._tracer is not None:
            self._tracer.close()
