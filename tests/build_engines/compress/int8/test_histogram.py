"""Histograms that grow, against numpy's over all values at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.compress.int8.histogram import ChannelHistogram, RowSample


def test_counts_equal_numpys_after_growing() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(size=(200, 3)).astype(np.float32) * factor for factor in (0.1, 1, 7, 0.5)]
    histogram = ChannelHistogram(3, bins=64)
    for part in parts:
        histogram.update(part)
    values = np.abs(np.concatenate(parts))
    assert histogram.rows == 800
    np.testing.assert_array_equal(histogram.maxima, values.max(axis=0))
    np.testing.assert_allclose(histogram.squares, np.square(values.astype(np.float64)).sum(axis=0), rtol=1e-6)
    for channel in range(3):
        expected, _ = np.histogram(values[:, channel], bins=64, range=(0, histogram.limits[channel]))
        # float32 places a value on the edge of two bins now and then in the other one
        assert np.abs(histogram.counts[channel] - expected).sum() <= 4
        assert histogram.limits[channel] < 2 * values[:, channel].max() + 1e-6


def test_merged_follows_the_migrated_values() -> None:
    random = np.random.default_rng(1)
    values = (random.normal(size=(5000, 4)) * [1, 10, 100, 0.1]).astype(np.float32)
    divisor = np.array([1, 8, 90, 0.2], np.float32)
    histogram = ChannelHistogram(4)
    for part in np.split(values, 5):
        histogram.update(part)
    counts, top = histogram.merged(divisor, bins=100)
    moved = np.abs(values / divisor)
    assert top == pytest.approx(moved.max(), rel=1e-6)
    assert counts.sum() == pytest.approx(moved.size)
    expected, _ = np.histogram(moved, bins=100, range=(0, top))
    assert np.abs(counts - expected).sum() < 0.03 * moved.size


def test_zeros_and_nothing() -> None:
    histogram = ChannelHistogram(2)
    histogram.update(np.zeros((0, 2), np.float32))
    histogram.update(np.zeros((5, 2), np.float32))
    counts, top = histogram.merged()
    assert top == 0
    assert counts.sum() == 10
    histogram.update(np.array([[0, 3]], np.float32))
    counts, top = histogram.merged(bins=10)
    assert top == 3
    assert counts[-1] == 1
    assert counts.sum() == 12


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_no_number(bad: float) -> None:
    histogram = ChannelHistogram(2)
    with pytest.raises(ValueError, match="NaN or Inf"):
        histogram.update(np.array([[1, bad]], np.float32))


def test_sample_is_repeatable_and_follows_the_weights() -> None:
    rows = np.arange(10_000, dtype=np.float32)[:, None]
    weights = np.where(rows[:, 0] < 5000, 3.0, 1.0)

    def draw(seed: int) -> NDArray[Any]:
        sample = RowSample(1000, seed)
        for part in range(0, 10_000, 700):
            sample.update(rows[part : part + 700], weights[part : part + 700])
        return sample.rows[:, 0]

    first = draw(0)
    np.testing.assert_array_equal(first, draw(0))
    assert len(np.unique(first)) == 1000
    assert not np.array_equal(first, draw(1))
    assert 0.68 < (first < 5000).mean() < 0.80
