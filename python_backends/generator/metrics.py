"""What a generation model counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics import BUSY, Meters, Registry
from .protocol import Failure, FinishReason

PREFIX = "tritonforge_generation_"
FIRST_TOKEN = PREFIX + "time_to_first_token_seconds"
PER_TOKEN = PREFIX + "time_per_output_token_seconds"
WAITED = PREFIX + "queue_time_seconds"
DURATION = PREFIX + "request_duration_seconds"
PROMPT_TOKENS = PREFIX + "prompt_tokens_total"
TOKENS = PREFIX + "tokens_total"
STEPS = PREFIX + "steps_total"
FINISHED = PREFIX + "finished_requests_total"
RUNNING = PREFIX + "running_sequences"
WAITING = PREFIX + "waiting_requests"
KV_USED = PREFIX + "kv_cache_usage_ratio"
KV_TOKENS = PREFIX + "kv_cache_capacity_tokens"
PREFIX_HITS = PREFIX + "prefix_cache_hit_tokens_total"

REASONS = tuple(dict.fromkeys(reason.value for reason in (*FinishReason, *Failure)))
"""Label values of :data:`FINISHED`; each request ends with one of them."""

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


def create_meters(pb_utils: Any, args: Mapping[str, str]) -> Meters:
    """Register all metrics of one generation model with Triton.

    Args:
        pb_utils: The module ``triton_python_backend_utils``.
        args: What Triton gives ``initialize``.
    """
    registry = Registry(pb_utils, args)
    registry.counter(BUSY, "Time in which the engine computed, or its answers were sent")
    registry.histogram(FIRST_TOKEN, "From arrival to the first token, queue included", _LATENCY)
    registry.histogram(PER_TOKEN, "Mean time between the tokens of a request", _TOKEN_LATENCY)
    registry.histogram(WAITED, "From arrival to the engine", _LATENCY)
    registry.histogram(DURATION, "From arrival to the last token", _LATENCY)
    registry.counter(PROMPT_TOKENS, "Tokens of the prompts that were handed to the engine")
    registry.counter(TOKENS, "Tokens generated")
    registry.counter(STEPS, "Steps of the engine's scheduler")
    registry.labelled(
        FINISHED, "Requests answered, by how they ended", "reason", {r: finished(r) for r in REASONS}
    )
    registry.gauge(RUNNING, "Sequences in the engine")
    registry.gauge(WAITING, "Requests that wait for a free place in the engine")
    registry.gauge(KV_USED, "Share of the KV cache's blocks in use")
    registry.gauge(KV_TOKENS, "Tokens that the KV cache holds")
    registry.counter(PREFIX_HITS, "Prompt tokens found in the KV cache (OpenVINO: an estimate)")
    return Meters(registry)


def finished(reason: str) -> str:
    """Key of the counter of requests that ended so."""
    return f"{FINISHED}:{reason}"
