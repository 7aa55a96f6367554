"""How far rows for held-out text are from the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.check.compare import Rows, cosines, differences
from build_engines.gate.verdict import GateCheck, Outcome
from build_engines.spec import ModelSpec

_WORST = 5
_SHOWN_CHARACTERS = 100
_TIE = 1e-6  # similarities closer than this are one rank: float32 knows no better


@dataclass(frozen=True)
class Limits:
    """Thresholds; None where a figure is told for information only.

    Attributes:
        mean_cosine: Least mean over the texts.
        min_cosine: Least of any text.
        overlap: Least share of equal neighbours.
        agreement: Least share of equal labels.
        mend: What to try where one is missed.
    """

    mean_cosine: float | None
    min_cosine: float | None
    overlap: float | None
    agreement: float | None
    mend: str


def accuracy_checks(
    group: str,
    spec: ModelSpec,
    found: Rows,
    reference: Rows,
    texts: Sequence[str],
    limits: Limits,
    top_k: int,
    against: str,
) -> list[GateCheck]:
    """Compare rows with the reference's.

    Args:
        group: First part of the checks' names.
        spec: Task and activation.
        found: The engine's rows, float32 [texts, width].
        reference: float32 [texts, width].
        texts: The texts, for the examples.
        limits: Thresholds.
        top_k: Neighbours to compare.
        against: What the reference is, for people.
    """
    about = f"{len(texts)} held-out texts, against {against}"
    if spec.task == "classification":
        return _label_checks(group, spec, found, reference, texts, limits, about)
    cosine = cosines(found, reference)
    worst = tuple(
        {"text": shorten(texts[i]), "cosine": float(cosine[i])} for i in np.argsort(cosine)[:_WORST]
    )
    checks = [
        at_least(f"{group}.mean_cosine", float(cosine.mean()), limits.mean_cosine, about, worst, limits.mend),
        at_least(f"{group}.min_cosine", float(cosine.min()), limits.min_cosine, about, worst, limits.mend),
    ]
    k = min(top_k, (len(texts) - 1) // 2)
    if k < 1:
        return [*checks, GateCheck(f"{group}.overlap", "skipped", detail="too few texts to have neighbours")]
    overlap = neighbour_overlap(found, reference, k)
    lost = tuple(
        {"text": shorten(texts[i]), "overlap": float(overlap[i])} for i in np.argsort(overlap)[:_WORST]
    )
    detail = f"top {k} of {about}"
    checks.append(
        at_least(f"{group}.overlap", float(overlap.mean()), limits.overlap, detail, lost, limits.mend)
    )
    return checks


def neighbour_overlap(found: Rows, reference: Rows, k: int) -> NDArray[np.float64]:
    """Share of each row's ``k`` nearest rows, by cosine, that are among the nearest in the reference too.

    A neighbour counts where the reference ranks it within its own ``k``, or level with the last of them.

    Args:
        found: float32 [rows, width].
        reference: The same shape.
        k: Below the number of rows.

    Returns:
        float64 [rows].
    """
    mine, theirs = (_similarities(rows) for rows in (found, reference))
    nearest = np.argpartition(-mine, k - 1, axis=1)[:, :k]
    last = -np.partition(-theirs, k - 1, axis=1)[:, k - 1]
    ranked = np.take_along_axis(theirs, nearest, axis=1) >= last[:, None] - _TIE
    share: NDArray[np.float64] = ranked.mean(axis=1)
    return share


def _similarities(rows: Rows) -> NDArray[np.float64]:
    """Cosines of all pairs, float64 [rows, rows]; a row is no neighbour of itself."""
    safe = np.nan_to_num(rows.astype(np.float64), nan=0, posinf=0, neginf=0)
    unit = safe / np.maximum(np.linalg.norm(safe, axis=1, keepdims=True), 1e-12)
    similarities: NDArray[np.float64] = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    return similarities


def _label_checks(
    group: str,
    spec: ModelSpec,
    found: Rows,
    reference: Rows,
    texts: Sequence[str],
    limits: Limits,
    about: str,
) -> list[GateCheck]:
    """Labels that agree, and the largest difference of a score."""
    agree = (decisions(found, spec) == decisions(reference, spec)).all(axis=1)
    agree &= np.isfinite(found).all(axis=1)
    gap = differences(found, reference)

    def example(i: int) -> dict[str, Any]:
        return {
            "text": shorten(texts[i]),
            "label": _named(found[i], spec),
            "reference": _named(reference[i], spec),
            "difference": float(gap[i]),
        }

    flipped = np.flatnonzero(~agree)
    flipped = flipped[np.argsort(-gap[flipped])][:_WORST]
    widest = tuple(example(i) for i in np.argsort(-gap)[:_WORST])
    return [
        at_least(
            f"{group}.agreement",
            float(agree.mean()),
            limits.agreement,
            about,
            tuple(example(i) for i in flipped),
            limits.mend,
        ),
        at_least(f"{group}.score_difference", float(gap.max()), None, about, widest, limits.mend),
    ]


def decisions(rows: Rows, spec: ModelSpec) -> NDArray[np.bool_]:
    """Which labels a row of scores gives, bool [rows, labels]."""
    if spec.activation == "sigmoid":
        return rows > 0.5
    chosen: NDArray[np.bool_] = np.arange(rows.shape[1]) == rows.argmax(axis=1)[:, None]
    return chosen


def _named(row: Rows, spec: ModelSpec) -> str:
    """The highest score with its label."""
    best = int(row.argmax())
    return f"{spec.labels[best]} {row[best]:.3f}"


def at_least(
    name: str,
    figure: float,
    threshold: float | None,
    detail: str,
    worst: tuple[dict[str, Any], ...] = (),
    mend: str = "",
) -> GateCheck:
    """A check of a figure that must not be below a threshold; without one it is told, not judged."""
    outcome: Outcome = "skipped" if threshold is None else "pass" if figure >= threshold else "fail"
    told = f"{detail}; no threshold, for information" if threshold is None else detail
    return GateCheck(name, outcome, figure, threshold, told, worst, mend)


def shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"
