"""Spans of the tokenizer model."""

from __future__ import annotations

from collections.abc import Callable

from ..packing import FILLER
from ..tracing import REQUESTS, Stage
from .batch import Rejection, TokenizedBatch

TEXTS, TOKENS = "tritonforge.texts", "tritonforge.tokens"
BATCH_TOKENS = "tritonforge.batch.tokens"


def tokenizing(batch: TokenizedBatch, start: int, end: int) -> Callable[[int], Stage]:
    """What was done for each request of an execution, times in nanoseconds since 1970."""
    whole = {REQUESTS: len(batch.results), BATCH_TOKENS: batch.tokens}

    def stage(index: int) -> Stage:
        result = batch.results[index]
        if isinstance(result, Rejection):
            return Stage("tokenize", start, end, whole, result.reason)
        size = {TEXTS: result.shape[0], TOKENS: int((result != FILLER).sum())}
        return Stage("tokenize", start, end, {**whole, **size})

    return stage
