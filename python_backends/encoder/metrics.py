"""What an engine model counts."""

from __future__ import annotations

from ..metrics import BUSY, Meters, Registry
from .batch import EncodedBatch, Failed, Failure

TOKENS = "tritonforge_tokens_total"
SEQUENCES = "tritonforge_sequences_total"
RUNS = "tritonforge_runs_total"
PADDING_AVOIDED = "tritonforge_padding_avoided_tokens_total"
FILLER = "tritonforge_filler_tokens_total"
CANCELLED = "tritonforge_cancelled_requests_total"
RUN_TOKENS = "tritonforge_run_tokens"
EXECUTION_REQUESTS = "tritonforge_execution_requests"
EXECUTION_SEQUENCES = "tritonforge_execution_sequences"

_TOKENS = (16, 64, 256, 1024, 4096, 16384)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def register(registry: Registry) -> None:
    """Create the metrics of one engine, beside :data:`BUSY`."""
    registry.counter(TOKENS, "Tokens computed, without padding")
    registry.counter(SEQUENCES, "Texts computed")
    registry.counter(RUNS, "Runs of the engine")
    registry.counter(PADDING_AVOIDED, "Padding tokens that one rectangle per execution would have added")
    registry.counter(FILLER, "Slots without a token that the engine computed")
    registry.counter(CANCELLED, "Cancelled requests dropped before they cost compute")
    registry.tally(RUN_TOKENS, "Tokens of a run of the engine", _TOKENS)
    registry.tally(EXECUTION_REQUESTS, "Requests that Triton handed over at once", _BATCH)
    registry.tally(EXECUTION_SEQUENCES, "Texts computed of one hand-over", _BATCH)


def count(meters: Meters, batch: EncodedBatch, seconds: float) -> None:
    """Count one execution.

    Args:
        meters: Over the metrics of :func:`register`.
        batch: Its answers.
        seconds: How long it took.
    """
    cancelled = [r for r in batch.results if isinstance(r, Failed) and r.kind is Failure.CANCELLED]
    meters.add(
        {
            BUSY: seconds,
            TOKENS: sum(batch.run_tokens),
            SEQUENCES: batch.sequences,
            RUNS: len(batch.run_tokens),
            PADDING_AVOIDED: batch.padding_avoided,
            FILLER: batch.filler,
            CANCELLED: len(cancelled),
        },
        {
            RUN_TOKENS: batch.run_tokens,
            EXECUTION_REQUESTS: (len(batch.results),),
            EXECUTION_SEQUENCES: (batch.sequences,),
        },
    )
