"""Streaming histograms of |x|, one per channel, in fixed memory.

A range grows by doubling: pairs of bins are then merged, so that no value has to be seen twice (the
way of torch's ``HistogramObserver`` and of TensorRT's calibrator). Because the channels are kept
apart, the histogram of ``x / s`` follows for any migration vector ``s`` without another pass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Counts = NDArray[np.float64]


class ChannelHistogram:
    """Histograms of magnitudes for ``channels`` channels.

    Args:
        channels: How many.
        bins: Bins of each, a power of two; between half of them and all are in use.

    Attributes:
        counts: int64 [channels, bins].
        limits: float64 [channels], upper edge of each histogram; 0 as long as only zeros came.
        maxima: float32 [channels], largest magnitude seen.
        least: float32 [channels], least value seen, sign included.
        most: float32 [channels], largest value seen.
        squares: float64 [channels], sum of squares.
        rows: Rows seen.
    """

    def __init__(self, channels: int, bins: int = 512) -> None:
        """Start empty."""
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"bins must be a power of two, not {bins}")
        self.bins = bins
        self.counts = np.zeros((channels, bins), np.int64)
        self.limits = np.zeros(channels)
        self.maxima = np.zeros(channels, np.float32)
        self.least = np.full(channels, np.inf, np.float32)
        self.most = np.full(channels, -np.inf, np.float32)
        self.squares = np.zeros(channels)
        self.rows = 0
        self._starts = np.arange(channels) * bins

    def update(self, values: FloatArray) -> None:
        """Count float32 [rows, channels].

        Raises:
            ValueError: If a value is NaN or infinite.
        """
        if not len(values):
            return
        low, high = values.min(axis=0), values.max(axis=0)
        peak = np.maximum(high, -low)
        if not np.isfinite(peak).all():
            raise ValueError("NaN or Inf among the activations")
        self._grow(peak)
        magnitudes = np.abs(values)
        self.least, self.most = np.minimum(self.least, low), np.maximum(self.most, high)
        self.maxima = np.maximum(self.maxima, peak)
        self.squares += np.einsum("rc,rc->c", values, values, dtype=np.float64)
        self.rows += len(values)
        steps = np.where(self.limits > 0, self.bins / np.where(self.limits > 0, self.limits, 1), 0)
        places = np.minimum((magnitudes * steps.astype(np.float32)).astype(np.int64), self.bins - 1)
        places += self._starts
        self.counts += np.bincount(places.reshape(-1), minlength=self.counts.size).reshape(self.counts.shape)

    def _grow(self, peak: FloatArray) -> None:
        """Double the ranges that are too short, merging pairs of bins."""
        fresh = (self.limits == 0) & (peak > 0)
        # Zeros seen so far lie in the first bin, where they belong in any range.
        self.limits[fresh] = peak[fresh]
        while (short := self.limits < peak).any():
            halved = self.counts[short].reshape(-1, self.bins // 2, 2).sum(axis=2)
            self.counts[short] = np.concatenate([halved, np.zeros_like(halved)], axis=1)
            self.limits[short] *= 2

    def top(self, divisor: FloatArray | None = None) -> float:
        """Largest magnitude, each channel divided by its own number; as of :meth:`merged`."""
        scale = 1.0 if divisor is None else divisor.astype(np.float64)
        return float((self.maxima / scale).max(initial=0.0))

    def merged(self, divisor: FloatArray | None = None, bins: int = 1024) -> tuple[Counts, float]:
        """Histogram of all channels together, each divided by its own number.

        Args:
            divisor: float32 [channels], the migration vector s; None for ones.
            bins: Bins of the result.

        Returns:
            Counts (values spread evenly within a bin of a channel, hence not whole), and the upper edge
            of the last bin: the largest magnitude.
        """
        scale = np.ones(len(self.limits)) if divisor is None else divisor.astype(np.float64)
        top = self.top(divisor)
        if top == 0:
            return np.concatenate([[float(self.counts.sum())], np.zeros(bins - 1)]), 0.0
        cumulative = np.concatenate(
            [np.zeros((len(self.counts), 1)), np.cumsum(self.counts, axis=1, dtype=np.float64)], axis=1
        )
        edges = np.linspace(0, top, bins + 1)
        limits = np.where(self.limits > 0, self.limits, top)  # only zeros: the first bin in any range
        places = np.clip(edges[None, :] * (scale * self.bins / limits)[:, None], 0, self.bins)
        whole = np.minimum(places.astype(np.int64), self.bins - 1)
        # Both from the flat array: much faster than take_along_axis.
        flat = whole + (np.arange(len(whole)) * (self.bins + 1))[:, None]
        lower, upper = cumulative.reshape(-1)[flat], cumulative.reshape(-1)[flat + 1]
        below = (lower + (upper - lower) * (places - whole)).sum(axis=0)
        below[-1] = cumulative[:, -1].sum()
        return np.diff(below), top


class RowSample:
    """A sample of rows from a stream, drawn without replacement; the same for the same seed.

    Weighted reservoir sampling of Efraimidis and Spirakis 2006: each row gets the key
    ``-log(u) / weight``, and the rows with the smallest keys stay.

    Args:
        size: Rows to keep.
        seed: Of the random keys.
    """

    def __init__(self, size: int, seed: int) -> None:
        """Start empty."""
        self._size = size
        self._random = np.random.default_rng(seed)
        self._keys = np.zeros(0)
        self._rows: FloatArray | None = None

    def update(self, values: FloatArray, weights: NDArray[np.float64]) -> None:
        """Offer float32 [rows, channels] with a weight for each row."""
        keys = self._random.exponential(size=len(values)) / weights
        if len(self._keys) == self._size:
            better = keys < self._keys.max()
            keys, values = keys[better], values[better]
        rows = values if self._rows is None else np.concatenate([self._rows, values])
        keys = np.concatenate([self._keys, keys])
        kept = np.argsort(keys, kind="stable")[: self._size]
        self._keys, self._rows = keys[kept], np.ascontiguousarray(rows[kept])

    @property
    def rows(self) -> FloatArray:
        """What was kept, float32 [up to size, channels]."""
        return np.zeros((0, 0), np.float32) if self._rows is None else self._rows
