"""Token sequences to check and to measure with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from build_engines.spec import ModelSpec
from tritonforge.recipe import LengthShare

Int32Array = NDArray[np.int32]


def random_sequences(spec: ModelSpec, lengths: Sequence[int], seed: int = 0) -> list[Int32Array]:
    """Random token ids below the vocabulary's size, without the padding token; one int32 [n] a length."""
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths:
        ids = rng.integers(0, spec.vocab_size - 1, size=length, dtype=np.int32)
        ids[ids >= spec.pad_token_id] += 1  # steps over the padding token, stays below vocab_size
        found.append(ids)
    return found


def parity_lengths(max_length: int) -> list[int]:
    """Lengths from 1 token to the longest, dense where texts are short."""
    lengths = {1, 2, 3, max_length}
    length = 5.0
    while length < max_length:
        lengths.add(int(length))
        length *= 1.5
    return sorted(n for n in lengths if n <= max_length)


def mixed_lengths(mix: Sequence[LengthShare], count: int, max_length: int, seed: int = 0) -> list[int]:
    """Draw text lengths in tokens from a recipe's mix, cut at ``max_length``."""
    rng = np.random.default_rng(seed)
    weights = np.array([share.weight for share in mix])
    lengths = np.minimum([share.tokens for share in mix], max_length)
    return [int(n) for n in rng.choice(lengths, size=count, p=weights / weights.sum())]
