"""Ranges against what they are defined by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.compress.int8.number import NUMBERS
from build_engines.compress.int8.ranges import candidate_ranges, entropy_range, mse_range, percentile_range
from tritonforge.errors import CalibrationError


@pytest.fixture
def values() -> NDArray[Any]:
    """Mostly normal, with a few outliers far away."""
    random = np.random.default_rng(0)
    return np.abs(np.concatenate([random.normal(size=100_000), random.uniform(20, 40, 10)])).astype(
        np.float32
    )


def histogram(values: NDArray[Any]) -> tuple[NDArray[Any], float]:
    top = float(values.max())
    return np.histogram(values, bins=2048, range=(0, top))[0].astype(np.float64), top


def test_percentile(values: NDArray[Any]) -> None:
    counts, top = histogram(values)
    for percent in (50, 99, 99.9):
        assert percentile_range(counts, top, percent) == pytest.approx(
            np.percentile(values, percent), abs=top / 1000
        )
    assert percentile_range(counts, top, 100) == pytest.approx(top)


@pytest.mark.parametrize("number", ["int8", "fp8"])
def test_mse_is_no_worse_than_any_other_range(values: NDArray[Any], number: str) -> None:
    kind = NUMBERS[number]

    def error(reach: float) -> float:
        return float(np.square(values - kind.fake(values, np.float32(reach / kind.limit))).mean())

    counts, top = histogram(values)
    found = error(mse_range(counts, top, kind))
    assert all(found <= error(reach) * 1.1 + 1e-9 for reach in np.linspace(1, top, 60))


def test_entropy_cuts_the_outliers_and_keeps_the_bulk(values: NDArray[Any]) -> None:
    counts, top = histogram(values)
    assert 2.0 < entropy_range(counts, top) < 12
    even = np.full(2048, 10.0)
    assert entropy_range(even, 1.0) > 0.95  # nothing to cut off


def test_methods_by_name(values: NDArray[Any]) -> None:
    counts, top = histogram(values)
    int8 = NUMBERS["int8"]
    found = candidate_ranges(counts, top, int8, "auto")
    assert set(found) == {"max", "percentile-99.9", "percentile-99.99", "percentile-99.999", "mse", "entropy"}
    assert all(0 < reach <= top * 1.001 for reach in found.values())
    assert candidate_ranges(counts, top, int8, "max") == {"max": top}
    assert candidate_ranges(np.array([5.0, 0]), 0.0, int8, "auto") == {"max": 1.0}
    assert "entropy" not in candidate_ranges(counts, top, NUMBERS["fp8"], "auto")
    with pytest.raises(CalibrationError, match="FP8"):
        candidate_ranges(counts, top, NUMBERS["fp8"], "entropy")
