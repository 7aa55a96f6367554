"""Figures for rows against rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]

NOT_FINITE = float(np.finfo(np.float32).max)
"""Stands for an infinite difference, which JSON cannot hold."""


def cosines(found: Rows, reference: Rows) -> NDArray[np.float64]:
    """Cosine of each row with its reference, float64 [rows]; -1 where a number is NaN or Inf.

    Args:
        found: float32 [rows, width].
        reference: The same shape.
    """
    finite = np.isfinite(found).all(axis=1)
    a = np.where(finite[:, None], found, 0).astype(np.float64)
    b = reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    return np.where(finite, cosine, -1.0)


def differences(found: Rows, reference: Rows) -> NDArray[np.float64]:
    """Largest difference in each row, float64 [rows]; :data:`NOT_FINITE` where a number is NaN or Inf.

    In units of the largest number of the reference where that is above 1: vectors that are not normalized
    may be of any size, and rounding grows with them.
    """
    finite = np.isfinite(found).all(axis=1)
    scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
    gap = np.abs(np.where(finite[:, None], found, 0).astype(np.float64) - reference).max(axis=1)
    return np.where(finite, gap / scale, NOT_FINITE)
