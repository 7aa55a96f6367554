"""From a histogram of |x| to a range: max, percentile, MSE and entropy.

A range r means that magnitudes up to r are kept and larger ones saturate; the scale is r / 127 for INT8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from build_engines.compress.int8.number import Number
from tritonforge.errors import CalibrationError

Counts = NDArray[np.float64]

PERCENTILES = (99.9, 99.99, 99.999)
_MSE_RANGES = 64
_CLOSE = 1e-9  # divergences; those of all cuts at once are off by far less


def candidate_ranges(counts: Counts, top: float, number: Number, method: str) -> dict[str, float]:
    """Ranges by the methods that ``method`` names; all for ``auto``.

    Args:
        counts: Histogram of magnitudes over [0, top].
        top: Largest magnitude.
        number: Format to quantize to.
        method: ``auto``, ``max``, ``percentile``, ``mse`` or ``entropy``.

    Returns:
        Range by method; the percentiles are told apart as ``percentile-99.99``.

    Raises:
        CalibrationError: For ``entropy`` with FP8, whose levels are not even.
    """
    if number.name == "fp8" and method == "entropy":
        raise CalibrationError(
            "entropy is defined for evenly spaced levels, which FP8 has not",
            where="calibration.method",
            mend="set calibration.method to auto, max, percentile or mse",
        )
    if top == 0:  # a tensor of zeros: any range is right
        return {"max": 1.0}
    found: dict[str, float] = {}
    if method in {"auto", "max"}:
        found["max"] = top
    if method in {"auto", "percentile"}:
        found |= {f"percentile-{p}": percentile_range(counts, top, p) for p in PERCENTILES}
    if method in {"auto", "mse"}:
        found["mse"] = mse_range(counts, top, number)
    if method in {"auto", "entropy"} and number.name == "int8":
        found["entropy"] = entropy_range(counts, top)
    return found


def percentile_range(counts: Counts, top: float, percent: float) -> float:
    """Range that holds ``percent`` % of all values."""
    cumulative = np.cumsum(counts)
    place = int(np.searchsorted(cumulative, cumulative[-1] * percent / 100))
    return top * min(place + 1, len(counts)) / len(counts)


def mse_range(counts: Counts, top: float, number: Number) -> float:
    """Range with the least mean squared error of the values themselves."""
    centres = ((np.arange(len(counts)) + 0.5) * (top / len(counts))).astype(np.float32)
    ranges = top * np.geomspace(0.02, 1, _MSE_RANGES)
    quantized = number.fake(centres[None, :], (ranges / number.limit).astype(np.float32)[:, None])
    errors = (np.square(centres[None, :] - quantized, dtype=np.float64) * counts).sum(axis=1)
    return float(ranges[errors.argmin()])


def entropy_range(counts: Counts, top: float, levels: int = 128) -> float:
    """Range with the least Kullback-Leibler divergence between the values and what is left of them.

    The method of TensorRT's entropy calibrator: S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
    For each cut, the reference is the histogram up to it with all outliers in the last bin; against
    it stands the same histogram merged to 128 levels and spread again over its non-empty bins.
    """
    bins = len(counts)
    cuts = np.arange(levels, bins + 1, max(1, (bins - levels) // 112))
    tail = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    estimates = _estimates(counts, tail, cuts, levels)
    # They carry a rounding error: what comes close to the least is computed by itself.
    close = cuts[estimates <= estimates.min() + _CLOSE]
    divergences = [_divergence(counts[:cut], tail[cut], levels) for cut in close]
    return float(top * close[int(np.argmin(divergences))] / bins)


def _estimates(counts: Counts, tail: Counts, cuts: NDArray[np.int64], levels: int) -> Counts:
    """:func:`_divergence` of all cuts at once, by running sums over the bins."""
    present = counts > 0
    masses, sizes, products = (
        np.concatenate([[0.0], np.cumsum(values)]) for values in (counts, present, counts * _log(counts))
    )
    # Bin b is of level b * levels // cut: level l begins at the least b with b * levels >= l * cut.
    bounds = -(-np.arange(levels + 1)[None, :] * cuts[:, None] // levels)
    mass = np.diff(masses[bounds], axis=1)
    mean = mass / np.maximum(np.diff(sizes[bounds], axis=1), 1)
    head, last = masses[cuts], counts[cuts - 1]
    full, total = last + tail[cuts], head + tail[cuts]
    # The last bin holds the outliers as well, and stands apart.
    beside = np.where(last > 0, mean[:, -1], 0.0) / np.where(head > 0, head, 1.0)
    sums = products[cuts] - (mass * _log(mean)).sum(axis=1) - last * (_log(last) - _log(mean[:, -1]))
    sums += (head - last) * _log(head) + full * (_log(full) - np.log(np.maximum(beside, 1e-12)))
    return np.where(head > 0, sums / total - _log(total), np.inf)


def _log(values: Counts) -> Counts:
    """Logarithm, 0 where there is none."""
    return np.log(values, where=values > 0, out=np.zeros_like(values))


def _divergence(head: Counts, outliers: float, levels: int) -> float:
    """KL divergence of one cut; infinite if there is nothing to compare."""
    level = np.arange(len(head)) * levels // len(head)
    present = head > 0
    sums = np.bincount(level, weights=head, minlength=levels)
    sizes = np.bincount(level, weights=present, minlength=levels)
    approximate = np.where(present, (sums / np.maximum(sizes, 1))[level], 0.0)
    reference = head.copy()
    reference[-1] += outliers
    if not reference.sum() or not approximate.sum():
        return float("inf")
    p, q = reference / reference.sum(), approximate / approximate.sum()
    # An empty bin that received the outliers has no counterpart: a small probability stands there.
    q = np.maximum(q, 1e-12)
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())
