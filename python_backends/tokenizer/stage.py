"""Texts of Triton's requests become token ids: counted, logged and traced."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..logs import RequestLog, line
from ..metrics import BUSY, Meters, Registry
from ..settings import TokenizerSettings
from ..threads import physical_cores
from ..tracing import start_tracer
from .batch import REASONS, BatchTokenizer, Rejection, TokenizedBatch
from .tracing import tokenizing

TOKENS = "tritonforge_tokenized_tokens_total"
TRUNCATED = "tritonforge_truncated_texts_total"
REJECTED = "tritonforge_rejected_requests_total"


class TokenizerStage:
    """The tokenizer of one model.

    Args:
        pb_utils: The module ``triton_python_backend_utils``.
        args: What Triton gives ``initialize``.
        registry: Gets the metrics.

    Raises:
        SettingsError: A parameter is missing or not allowed.
    """

    def __init__(self, pb_utils: Any, args: Mapping[str, str], registry: Registry) -> None:
        """Load ``tokenizer.json`` of the version folder."""
        self._pb_utils = pb_utils
        settings = TokenizerSettings.parse(args["model_config"])
        # A text takes the tokenizer a hundredth of what the engine needs for it, so one thread
        # keeps up with a CPU engine, and the cores are the engine's.
        threads = settings.threads or max(1, physical_cores() // 8)
        # The thread pool reads these once, at the first batch.
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = BatchTokenizer(folder / "tokenizer.json", settings)
        registry.counter(TOKENS, "Tokens that texts became, special tokens included")
        registry.counter(TRUNCATED, "Texts cut to max_length tokens")
        registry.labelled(
            REJECTED, "Requests answered with an error", "reason", {reason: reason for reason in REASONS}
        )
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

    def run(self, requests: Sequence[Any], meters: Meters) -> TokenizedBatch:
        """Tokenize the texts of all requests in one call."""
        started = time.perf_counter()
        get_input = self._pb_utils.get_input_tensor_by_name
        began = time.time_ns() if self._tracer is not None else 0
        batch = self._tokenizer.tokenize([get_input(request, "text").as_numpy() for request in requests])
        counts: dict[str, float] = {TOKENS: batch.tokens, TRUNCATED: batch.truncated}
        for request, result in zip(requests, batch.results, strict=True):
            if isinstance(result, Rejection):
                self._log.refused(request, result.reason)
                counts[result.reason] = counts.get(result.reason, 0) + 1
        if self._tracer is not None and (contexts := self._tracer.contexts(requests)):
            self._tracer.record_batch(contexts, tokenizing(batch, began, time.time_ns()))
        counts[BUSY] = time.perf_counter() - started
        meters.add(counts)
        return batch

    def refuse(self, rejection: Rejection) -> Any:
        """The response to a request without token ids."""
        error = self._pb_utils.TritonError
        return self._pb_utils.InferenceResponse(error=error(rejection.message, error.INVALID_ARG))

    def close(self) -> None:
        """Send the last spans."""
        if self._tracer is not None:
            self._tracer.close()
