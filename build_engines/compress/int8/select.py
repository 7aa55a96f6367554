"""Which groups stay in higher precision: as few multiply-adds as possible, until the gate holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from build_engines.check.compare import cosines
from build_engines.compress.int8.report import CurvePoint
from build_engines.compress.int8.search import Plan
from build_engines.compress.int8.session import FloatArray, Sequences
from build_engines.compress.int8.switchboard import Switchboard
from build_engines.gate.accuracy import neighbour_overlap
from tritonforge.errors import CalibrationError
from tritonforge.recipe import Gate

# The slice that layers are chosen on is small, and its worst text is not the worst of all texts.
SAFETY = 1.5
_TRIED = 4
_FEWEST_NEIGHBOURS = 5  # with fewer texts than this times top_k, most are everyone's neighbours
_MOST_REFINED = 8
_REFINED_PART = 0.8
_HEADROOM_PART = 0.2
_MOST_HEADROOM = 2.0
_LARGEST_ALLOWED = 0.005


@dataclass(frozen=True)
class Score:
    """Agreement with float32.

    Attributes:
        mean: Mean cosine.
        worst: Smallest cosine.
        overlap: Share of equal neighbours; None where they were not looked at.
    """

    mean: float
    worst: float
    overlap: float | None = None

    def excess(self, gate: Gate) -> float:
        """Error over what the gate allows, the worst of all figures; 1 is just enough."""
        overlap = 0.0 if self.overlap is None else (1 - self.overlap) / max(1 - gate.overlap, 1e-9)
        return max(self.cosine_excess(gate), overlap)

    def cosine_excess(self, gate: Gate) -> float:
        """The same of the cosines alone: only these refuse a model here; the gate judges neighbours."""
        mean = (1 - self.mean) / max(1 - gate.mean_cosine, 1e-9)
        worst = (1 - self.worst) / max(1 - gate.min_cosine, 1e-9)
        return max(mean, worst)


def score(found: FloatArray, reference: FloatArray) -> Score:
    """Compare rows, float32 [rows, width] each; NaN counts as no agreement at all."""
    values = cosines(found, reference)
    return Score(float(values.mean()), float(values.min()))


def _excess(row: tuple[str, float, float], gate: Gate) -> float:
    """Error of a row of the sensitivity over what the gate allows."""
    return Score(1 - row[1], 1 - row[2]).excess(gate)


class Selector:
    """Chooses on a validation slice.

    Args:
        board: Runs the model with any groups quantized.
        sequences: The slice.
        shares: Share of the multiply-adds, by group name.
        gate: What is to be reached.
        texts: How many sequences, from the first on, are texts whose neighbours are looked at; 0: none.
    """

    def __init__(
        self,
        board: Switchboard,
        sequences: Sequences,
        shares: Mapping[str, float],
        gate: Gate,
        texts: int = 0,
    ) -> None:
        """Compute the float32 reference."""
        self._board = board
        self._sequences = sequences
        self._shares = shares
        self._gate = gate
        self._texts = texts if texts >= _FEWEST_NEIGHBOURS * gate.top_k else 0
        self._reference = board.answer(sequences, [])
        self.curve: list[CurvePoint] = []

    def score(self, plans: Sequence[Plan]) -> Score:
        """Agreement with the plans applied."""
        found = self._board.answer(self._sequences, plans)
        plain = score(found, self._reference)
        if not self._texts:
            return plain
        rows = slice(self._texts)
        same = neighbour_overlap(found[rows], self._reference[rows], self._gate.top_k)
        return replace(plain, overlap=float(same.mean()))

    def better(self, choices: Sequence[Sequence[Plan]]) -> Sequence[Plan]:
        """The set of plans that comes closest to the gate as a whole."""
        if len(choices) == 1:
            return choices[0]
        return min(choices, key=lambda plans: self.score(plans).excess(self._gate))

    def sensitivity(self, plans: Sequence[Plan]) -> list[tuple[str, float, float]]:
        """Groups with 1 - mean and 1 - min cosine of each alone, worst first."""
        found = [self._alone(plan) for plan in plans]
        return sorted(found, key=lambda row: -_excess(row, self._gate))

    def refined(
        self,
        plans: Sequence[Plan],
        sensitivity: Sequence[tuple[str, float, float]],
        others: Callable[[Plan], Sequence[Plan]],
    ) -> tuple[list[Plan], list[tuple[str, float, float]]]:
        """Try other settings of the most sensitive groups, each alone, by the error of the final output.

        A layer's own output error is only a hint: a residual and a norm follow.

        Args:
            plans: One a group.
            sensitivity: Of the plans.
            others: Gives further plans of a plan's group.

        Returns:
            Plans, and the sensitivity with them.
        """
        total = sum(mean for _, mean, _ in sensitivity)
        rows = {name: (name, mean, worst) for name, mean, worst in sensitivity}
        best = {plan.group.name: plan for plan in plans}
        covered = 0.0
        for name, mean, _ in sorted(sensitivity, key=lambda row: -row[1])[:_MOST_REFINED]:
            if covered >= _REFINED_PART * total:
                break
            covered += mean
            for plan in others(best[name]):
                row = self._alone(plan)
                if _excess(row, self._gate) < _excess(rows[name], self._gate):
                    rows[name], best[name] = row, plan
        ranked = sorted(rows.values(), key=lambda row: -_excess(row, self._gate))
        return [best[plan.group.name] for plan in plans], ranked

    def _alone(self, plan: Plan) -> tuple[str, float, float]:
        """Group, 1 - mean and 1 - min cosine with one plan alone, on half of the slice: that tells enough."""
        half = slice(None, None, 2)
        found = score(self._board.answer(self._sequences[half], [plan]), self._reference[half])
        return plan.group.name, 1 - found.mean, 1 - found.worst

    def with_headroom(
        self, plans: Sequence[Plan], sensitivity: Sequence[tuple[str, float, float]]
    ) -> list[Plan]:
        """Widen the ranges of groups that hardly add to the error, against text that overflows them.

        An error of rounding grows with the square of the range; each group may use its part of a fifth
        of the allowed mean error, and ranges at most double.
        """
        allowed = min(1 - self._gate.mean_cosine, _LARGEST_ALLOWED) * _HEADROOM_PART / max(len(plans), 1)
        alone = {name: mean for name, mean, _ in sensitivity}

        def factor(plan: Plan) -> float:
            return float(np.clip(np.sqrt(allowed / max(alone[plan.group.name], 1e-9)), 1, _MOST_HEADROOM))

        return [replace(plan, scale=float(np.float32(plan.scale * factor(plan)))) for plan in plans]

    def select(
        self, plans: Sequence[Plan], sensitivity: Sequence[tuple[str, float, float]], min_share: float
    ) -> list[Plan]:
        """Take groups out, the best error for the multiply-adds first, until the gate holds with a margin.

        Raises:
            CalibrationError: If it does not hold at the least share.
        """
        chosen = list(plans)
        left: list[str] = []
        now = self._note(chosen, left)
        alone = {name: Score(1 - mean, 1 - worst).excess(self._gate) for name, mean, worst in sensitivity}
        while now.excess(self._gate) > 1 / SAFETY:
            share = sum(self._shares[plan.group.name] for plan in chosen)
            open_ = [p for p in chosen if share - self._shares[p.group.name] >= min_share - 1e-9]
            open_.sort(key=lambda p: -alone[p.group.name] / max(self._shares[p.group.name], 1e-6))
            trials = []
            for plan in open_[:_TRIED]:
                rest = [p for p in chosen if p is not plan]
                gain = now.excess(self._gate) - self.score(rest).excess(self._gate)
                trials.append((gain / max(self._shares[plan.group.name], 1e-6), plan))
            gains = [trial for trial in trials if trial[0] > 0]
            if not gains:
                break
            out = max(gains, key=lambda trial: trial[0])[1]
            chosen = [p for p in chosen if p is not out]
            left.append(out.group.name)
            now = self._note(chosen, left)
        if now.cosine_excess(self._gate) > 1:
            raise self._failure(now, sensitivity, min_share)
        return chosen

    def _note(self, plans: Sequence[Plan], left: Sequence[str]) -> Score:
        """Score plans and put the point on the curve."""
        found = self.score(plans)
        share = sum(self._shares[plan.group.name] for plan in plans)
        self.curve.append(CurvePoint(tuple(left), share, found.mean, found.worst, found.overlap))
        return found

    def _failure(
        self, now: Score, sensitivity: Sequence[tuple[str, float, float]], min_share: float
    ) -> CalibrationError:
        """The error, with figures and what to try."""
        worst = ", ".join(f"{name} (adds {mean:.4f})" for name, mean, _ in sensitivity[:5])
        gate = self._gate
        return CalibrationError(
            f"cosine to float32 is {now.mean:.4f} in the mean and {now.worst:.4f} at worst with "
            f"{self.curve[-1].share:.1%} of the linear multiply-adds quantized; gate.mean_cosine "
            f"{gate.mean_cosine} and gate.min_cosine {gate.min_cosine} are asked for. "
            f"Most sensitive: {worst}",
            where="quantization",
            mend=f"lower quantization.min_share (now {min_share}), give more calibration text like what is "
            "served, set calibration.method: auto and quantization.smooth: true, or use precision fp16",
        )
