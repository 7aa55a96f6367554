"""Has an engine generate in this process, as its model's loop does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from python_backends.generator.protocol import FinishReason, Generator, RefusedError, SamplingParams
from tritonforge.errors import EngineError

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """What the engine made of one prompt."""

    tokens: list[int]
    log_probs: list[float]
    finish: FinishReason


def run_together(
    engine: Generator, prompts: Sequence[Ids], tokens: int, ignore_eos: bool = False
) -> list[Answer]:
    """Generate greedily, all prompts at once.

    Raises:
        EngineError: The engine refused one of them, or gave it up.
    """
    params = SamplingParams(max_tokens=tokens, log_probs=True, ignore_eos=ignore_eos)
    for key, prompt in enumerate(prompts):
        room = min(tokens, engine.kv_tokens - len(prompt))
        try:
            engine.add(key, prompt, replace(params, max_tokens=room))
        except RefusedError as error:
            raise EngineError(f"the engine refuses a prompt: {error}") from error
    made: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    ends: dict[int, FinishReason] = {}
    while len(ends) < len(prompts):
        for key, news in engine.step().items():
            made[key][0].extend(news.tokens)
            made[key][1].extend(news.log_probs)
            if news.error is not None:
                raise EngineError(f"the engine gave an answer up: {news.error}")
            if news.finish is not None:
                ends[key] = news.finish
    return [Answer(*parts, ends[key]) for key, parts in enumerate(made)]
