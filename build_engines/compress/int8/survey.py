"""A first, short pass: the range of each channel, and whether to centre it.

A one-sided input such as GELU's wastes half of a symmetric range. Subtracting a constant from each
channel (Wei et al. 2023, Outlier Suppression+, arXiv:2304.09145) makes it two-sided, exactly: the bias
takes back what the constant took away. It is not always better, since values that were 0 are then no
longer met by the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from build_engines.compress.int8.graph import Graph, Group
from build_engines.compress.int8.histogram import ChannelHistogram
from build_engines.compress.int8.number import Number
from build_engines.compress.int8.observe import Observation, observe
from build_engines.compress.int8.search import GroupSearch
from build_engines.compress.int8.session import Batches, Sequences

FloatArray = NDArray[np.float32]

_ALPHAS = (0.5, 0.7, 0.85, 1.0)
_GAIN = 0.9


@dataclass(frozen=True)
class Survey:
    """What one tensor is like, sign included.

    Attributes:
        sample: float32 [rows, channels].
        least: float32 [channels].
        most: float32 [channels].
    """

    sample: FloatArray
    least: FloatArray
    most: FloatArray

    @property
    def middle(self) -> FloatArray:
        """Middle of each channel's range."""
        return ((self.least + self.most) / 2).astype(np.float32)

    def peaks(self, centre: FloatArray | None) -> FloatArray:
        """Largest magnitude of each channel after ``centre`` is subtracted."""
        offset = np.zeros_like(self.least) if centre is None else centre
        return np.maximum(self.most - offset, offset - self.least)


def survey(
    graph: Graph,
    tensors: Sequence[tuple[str, int]],
    sequences: Sequences,
    batches: Batches,
    *,
    rows: int,
    seed: int,
    threads: int,
) -> dict[str, Survey]:
    """Run the text once; arguments as of :func:`build_engines.compress.int8.observe.observe`."""
    seen = observe(graph, tensors, sequences, batches, rows=rows, seed=seed, threads=threads)
    return {
        name: Survey(view.sample, view.histogram.least, view.histogram.most) for name, view in seen.items()
    }


def sample_observation(seen: Survey, centre: FloatArray | None) -> Observation:
    """An observation out of the sampled rows alone, with the true largest magnitudes."""
    rows = seen.sample if centre is None else seen.sample - centre
    histogram = ChannelHistogram(rows.shape[1], 128)
    histogram.update(rows)
    histogram.maxima = seen.peaks(centre)
    return Observation(histogram, rows, 1.0, False, centre)


def centre_of(graph: Graph, group: Group, seen: Survey, number: Number) -> FloatArray | None:
    """The group's centre if it lowers the error of its output on the sample, else None."""
    if any(member.bias is None for member in group.members):
        return None  # nothing would take the constant back
    errors = []
    for centre in (None, seen.middle):
        view = sample_observation(seen, centre)
        search = GroupSearch(graph, group, view, view.sample, number)
        errors.append(min(search.plan(alpha, "max").error for alpha in _ALPHAS))
    return seen.middle if errors[1] < _GAIN * errors[0] else None
