"""Tokens a second of an engine in this process, without server and network."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from build_engines.generation.context import GenerationContext, GeneratorCandidate
from build_engines.generation.serving import loaded_engine, served_settings
from python_backends.generator.protocol import Generator, SamplingParams
from python_backends.threads import engine_threads

STREAMS = (1, 8)
_TOKENS = 48
_PROMPT = 32
_ROUNDS = 2
_SEED = 7


def measure_speed(context: GenerationContext, candidate: GeneratorCandidate) -> dict[str, Any]:
    """Generate from short prompts of random tokens; the best of two rounds counts."""
    settings = served_settings(context, candidate)
    tokens = min(_TOKENS, context.settled.max_length // 2)
    most = min(max(STREAMS), settings.max_num_seqs)
    with loaded_engine(context, candidate, settings.kv_cache_tokens) as engine:
        rates = {
            str(streams): max(
                _rate(engine, context.settled.facts.vocab_size, streams, tokens) for _ in range(_ROUNDS)
            )
            for streams in sorted({min(streams, most) for streams in STREAMS})
        }
    return {"tokens_per_second": rates, "threads": engine_threads(settings.threads)}


def _rate(engine: Generator, vocabulary: int, streams: int, tokens: int) -> float:
    """New tokens of all streams by the time from the first prompt to the last token."""
    rng = np.random.default_rng([_SEED, streams])
    start = time.perf_counter()
    for key in range(streams):
        prompt = rng.integers(0, vocabulary, min(_PROMPT, tokens), dtype=np.int64)
        engine.add(key, prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
    left, made = streams, 0
    while left:
        for progress in engine.step().values():
            made += len(progress.tokens)
            left -= progress.finish is not None or progress.error is not None
    return made / (time.perf_counter() - start)
