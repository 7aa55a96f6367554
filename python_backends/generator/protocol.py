"""What the generation model asks of an engine, and nothing that only one engine has.

An engine has a scheduler of its own: it batches the sequences in flight anew at every step, pages its KV
cache and splits long prompts. None of that is written again here. The model's loop
(:mod:`.loop`) adds sequences, calls :meth:`Generator.step` over and over, and sends what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class FinishReason(Enum):
    """Why a sequence ended, in the words of OpenAI's API."""

    STOP = "stop"
    LENGTH = "length"


class Failure(Enum):
    """Why a request gets an error; the value is its label in the metrics."""

    INVALID = "invalid"
    UNAVAILABLE = "rejected"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ENGINE = "error"


class RefusedError(ValueError):
    """The engine does not offer what a request asks for; the message says which parameter and why."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen, checked already.

    Attributes:
        max_tokens: Tokens to generate at most, at least 1.
        min_tokens: Tokens before which no end-of-sequence token is chosen.
        temperature: Divides the logits; 0 means greedy, and then the other sampling values have no effect.
        top_p: Smallest set of tokens whose probabilities reach it, in (0, 1].
        top_k: Most likely tokens to choose from; 0 means all.
        seed: Of this sequence's own random numbers.
        repetition_penalty: Divides the logits of tokens seen before; 1 means none.
        presence_penalty: Taken off the logits of tokens generated before, once; 0 means none.
        frequency_penalty: The same, for each time; 0 means none.
        ignore_eos: Go on to ``max_tokens`` whatever is generated; for benchmarks.
        log_probs: Give the natural logarithm of each chosen token's probability.
        json_schema: The text must fit this JSON schema; None means any text.
        adapter: Name of a LoRA adapter; None means the plain model.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_eos: bool = False
    log_probs: bool = False
    json_schema: str | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step made of one sequence.

    Attributes:
        tokens: New token ids, in order; an end-of-sequence token is among them.
        log_probs: One for each token, empty where they were not asked for.
        finish: Set with the last tokens; the engine has then forgotten the sequence.
        error: The engine gave the sequence up, and why; it has then forgotten it.
    """

    tokens: Sequence[int] = ()
    log_probs: Sequence[float] = ()
    finish: FinishReason | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """State of the engine between two steps.

    Attributes:
        sequences: Sequences that it holds.
        scheduled: Those that the last step computed; fewer than ``sequences`` when the KV cache is full.
        kv_used: Share of the KV cache in use, 0 to 1.
        prefix_hit_tokens: Prompt tokens found in the cache since the start; None where nobody can tell.
    """

    sequences: int
    scheduled: int
    kv_used: float
    prefix_hit_tokens: int | None = None


class Generator(Protocol):
    """One loaded engine. All calls come from one thread."""

    kv_tokens: int
    """Tokens that its KV cache holds; a longer sequence can never be computed."""

    def add(self, key: int, prompt: NDArray[np.int64], params: SamplingParams) -> None:
        """Take a sequence in; the next step may compute it.

        Args:
            key: Names it from now on; not in use.
            prompt: Token ids, int64 [tokens], at least one.
            params: How to go on from there.

        Raises:
            RefusedError: A parameter asks for what the engine lacks. Nothing was taken in.
        """
        ...

    def has_room(self, prompt_tokens: int, params: SamplingParams) -> bool:
        """Whether a sequence may be added now; if not, it is asked for again after the next step.

        An engine whose scheduler copes with a full KV cache says yes.
        """
        ...

    def cancel(self, key: int) -> None:
        """Forget a sequence and free its cache before the next step computes; unknown keys are ignored."""
        ...

    def step(self) -> Mapping[int, Progress]:
        """Compute one step of the scheduler for all sequences it picks; only those with news are given.

        Blocks until there is news or a few hundred milliseconds have passed.
        """
        ...

    def stats(self) -> EngineStats:
        """Say how full the engine is."""
        ...

    def reset(self) -> None:
        """Forget all sequences after a step that raised, and be as new.

        Raises:
            Exception: The engine cannot be brought back.
        """
        ...

    def close(self) -> None:
        """Drop all sequences and free the engine."""
        ...
