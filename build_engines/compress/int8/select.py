"""Which groups stay in higher precision: as few multiply-adds as possible, until the gate holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from build_engines.compress.int8.report import CurvePoint
from build_engines.compress.int8.search import Plan
from build_engines.compress.int8.session import FloatArray, Sequences, cosines
from build_engines.compress.int8.switchboard import Switchboard
from tritonforge.errors import CalibrationError
from tritonforge.recipe import Gate

# The slice that layers are chosen on is small, and its worst text is not the worst of all texts.
SAFETY = 1.5
_TRIED = 4
_HEADROOM_PART = 0.2
_MOST_HEADROOM = 2.0
_LARGEST_ALLOWED = 0.005


@dataclass(frozen=True)
class Score:
    """Agreement with float32.

    Attributes:
        mean: Mean cosine.
        worst: Smallest cosine.
    """

    mean: float
    worst: float

    def excess(self, gate: Gate) -> float:
        """Error over what the gate allows, the worse of mean and minimum; 1 is just enough."""
        mean = (1 - self.mean) / max(1 - gate.mean_cosine, 1e-9)
        worst = (1 - self.worst) / max(1 - gate.min_cosine, 1e-9)
        return max(mean, worst)


def score(found: FloatArray, reference: FloatArray) -> Score:
    """Compare rows, float32 [rows, width] each; NaN counts as no agreement at all."""
    values = np.nan_to_num(cosines(found, reference), nan=-1.0)
    return Score(float(values.mean()), float(values.min()))


class Selector:
    """Chooses on a validation slice.

    Args:
        board: Runs the model with any groups quantized.
        sequences: The slice.
        shares: Share of the multiply-adds, by group name.
        gate: What is to be reached.
    """

    def __init__(
        self, board: Switchboard, sequences: Sequences, shares: Mapping[str, float], gate: Gate
    ) -> None:
        """Compute the float32 reference."""
        self._board = board
        self._sequences = sequences
        self._shares = shares
        self._gate = gate
        self._reference = board.answer(sequences, [])
        self.curve: list[CurvePoint] = []

    def score(self, plans: Sequence[Plan]) -> Score:
        """Agreement with the plans applied."""
        return score(self._board.answer(self._sequences, plans), self._reference)

    def better(self, choices: Sequence[Sequence[Plan]]) -> Sequence[Plan]:
        """The set of plans that comes closest to the gate as a whole."""
        if len(choices) == 1:
            return choices[0]
        return min(choices, key=lambda plans: self.score(plans).excess(self._gate))

    def sensitivity(self, plans: Sequence[Plan]) -> list[tuple[str, float, float]]:
        """Groups with 1 - mean and 1 - min cosine of each alone, worst first."""
        found = []
        # Half of the slice tells the order well enough, and this is most of the work.
        part = slice(None, None, 2)
        sequences, reference = self._sequences[part], self._reference[part]
        for plan in plans:
            alone = score(self._board.answer(sequences, [plan]), reference)
            found.append((plan.group.name, 1 - alone.mean, 1 - alone.worst))
        return sorted(found, key=lambda row: -Score(1 - row[1], 1 - row[2]).excess(self._gate))

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
        if now.excess(self._gate) > 1:
            raise self._failure(now, sensitivity, min_share)
        return chosen

    def _note(self, plans: Sequence[Plan], left: Sequence[str]) -> Score:
        """Score plans and put the point on the curve."""
        found = self.score(plans)
        share = sum(self._shares[plan.group.name] for plan in plans)
        self.curve.append(CurvePoint(tuple(left), share, found.mean, found.worst))
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
