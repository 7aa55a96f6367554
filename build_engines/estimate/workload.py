"""The recipe's traffic as numbers: lengths, the batches that form, and the runs that they are cut into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from python_backends.packing import plan_runs
from python_backends.windows import plan_windows
from tritonforge.recipe import EngineName, Layout, Recipe

# Real texts vary about the mix's round lengths: a run's shape is rarely seen twice.
_JITTER = 0.15


@dataclass(frozen=True)
class Run:
    """The shape of one engine run.

    Attributes:
        lengths: Tokens of each text.
        padded: Whether linear layers compute the filler too.
    """

    lengths: NDArray[np.int64]
    padded: bool

    @property
    def sequences(self) -> int:
        """Texts."""
        return int(self.lengths.size)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.lengths.max())

    @property
    def tokens(self) -> int:
        """Tokens that linear layers compute."""
        return self.sequences * self.longest if self.padded else int(self.lengths.sum())

    @property
    def cells(self) -> int:
        """Pairs of tokens that attention computes: it works on a rectangle."""
        return self.sequences * self.longest**2


@dataclass(frozen=True)
class Workload:
    """A length mix with the batching that it meets.

    Attributes:
        tokens: Lengths of the mix, cut at the model's longest.
        weights: Their shares; they add up to 1.
        max_batch: Texts of a batch at most.
        token_budget: Tokens of a run at most.
        layout: packed or padded.
        max_length: Tokens of a text at most.
        windows: Whether the engine lays a run into :mod:`python_backends.windows`.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    max_batch: int
    token_budget: int
    layout: Layout
    max_length: int
    windows: bool = False

    @classmethod
    def of(cls, recipe: Recipe, max_length: int, layout: Layout) -> Workload:
        """Read a recipe."""
        total = sum(share.weight for share in recipe.length_mix)
        return cls(
            tokens=tuple(min(share.tokens, max_length) for share in recipe.length_mix),
            weights=tuple(share.weight / total for share in recipe.length_mix),
            max_batch=recipe.batching.max_batch_size,
            token_budget=recipe.batching.token_budget,
            layout=layout,
            max_length=max_length,
        )

    def on(self, engine: EngineName) -> Workload:
        """The same as that engine computes it."""
        return replace(self, windows=engine == "openvino" and self.layout == "packed")

    @cached_property
    def mean_tokens(self) -> float:
        """Of a text."""
        return float(np.dot(self.tokens, self.weights))

    @cached_property
    def mean_square(self) -> float:
        """Mean of n * n over the texts: attention without any padding."""
        return float(np.dot(np.square(self.tokens), self.weights))

    def draw(self, batch: int, rng: np.random.Generator, *, jitter: bool = False) -> list[Run]:
        """Draw a batch of texts and cut it into runs as the encoder does."""
        lengths = rng.choice(np.array(self.tokens), size=batch, p=np.array(self.weights))
        if jitter:
            factors = rng.uniform(1 - _JITTER, 1 + _JITTER, size=batch)
            lengths = np.clip((lengths * factors).astype(np.int64), 1, self.max_length)
        lengths = lengths.astype(np.int64)
        padded = self.layout == "padded"
        runs = plan_runs(lengths, self.token_budget, padded=padded, ragged=self.windows)
        return [Run(lengths[run], padded) for run in runs]

    def computed(self, run: Run) -> list[Run]:
        """What the engine makes of a run: itself, or windows, each row as one text that fills it."""
        if not self.windows:
            return [run]
        windows = plan_windows(run.lengths.tolist())
        return [Run(np.full(len(window.rows), window.width, np.int64), padded=False) for window in windows]

    def largest_run(self) -> Run:
        """The most that is computed at once: the budget full of texts of the longest length."""
        texts = max(1, min(self.max_batch, self.token_budget // self.max_length))
        return self.computed(Run(np.full(texts, self.max_length, np.int64), self.layout == "padded"))[0]

    def usual_large_run(self, draws: int = 200) -> Run:
        """What has the most tokens among full batches of the mix; memory levels off about there."""
        rng = np.random.default_rng(0)
        drawn = [run for _ in range(draws) for run in self.draw(self.max_batch, rng, jitter=True)]
        runs = [part for run in drawn for part in self.computed(run)]
        return max(runs, key=lambda run: (run.tokens, run.cells))

    def distinct_shapes(self, draws: int = 2000) -> int:
        """Token counts, or shapes of windows, that will have been seen after a while."""
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, self.max_batch + 1, size=draws).tolist()
        drawn = [run for size in sizes for run in self.draw(size, rng, jitter=True)]
        if not self.windows:
            return len({run.tokens for run in drawn})
        return len({(part.sequences, part.longest) for run in drawn for part in self.computed(run)})
