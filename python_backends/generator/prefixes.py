"""Which prompt tokens an engine finds in its KV cache, where it does not tell."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .settings import BLOCK


class PrefixLedger:
    """Counts prompt tokens whose blocks are cached, by the chain of hashes that paged caches go by.

    A block's name is the hash of its tokens and of the block before it. This is an estimate: the engine drops
    blocks by its own order once they are needed, here the longest unused go first; and it also finds parts of
    blocks, which are not counted.

    Args:
        blocks: Blocks of the KV cache.
    """

    def __init__(self, blocks: int) -> None:
        """Begin with an empty cache."""
        self.hits = 0
        self._blocks = blocks
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._tails: dict[int, tuple[int, list[int]]] = {}

    def begin(self, key: int, prompt: NDArray[np.int64]) -> None:
        """Take in a prompt, int64 [tokens], and count what was there of it."""
        found = True
        chain = 0
        full = len(prompt) // BLOCK * BLOCK
        for start in range(0, full, BLOCK):
            chain = hash((chain, prompt[start : start + BLOCK].tobytes()))
            found = found and chain in self._cached
            # The last token of a prompt is always computed, so that there are logits to go on from.
            self.hits += min(BLOCK, len(prompt) - 1 - start) if found else 0
            self._keep(chain)
        self._tails[key] = (chain, prompt[full:].tolist())

    def grow(self, key: int, tokens: Sequence[int]) -> None:
        """Take in what was generated."""
        chain, tail = self._tails[key]
        tail += tokens
        while len(tail) >= BLOCK:
            chain = hash((chain, np.array(tail[:BLOCK], dtype=np.int64).tobytes()))
            self._keep(chain)
            del tail[:BLOCK]
        self._tails[key] = (chain, tail)

    def end(self, key: int) -> None:
        """Let go of a sequence; its blocks stay until others need the room."""
        self._tails.pop(key, None)

    def clear(self) -> None:
        """The cache is empty again; the count stays."""
        self._cached.clear()
        self._tails.clear()

    def _keep(self, chain: int) -> None:
        self._cached[chain] = None
        self._cached.move_to_end(chain)
        if len(self._cached) > self._blocks:
            self._cached.popitem(last=False)
