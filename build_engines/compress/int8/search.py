"""Finds scale, migration and rounding of one group of linear layers by the error of its own output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from build_engines.compress.int8.graph import Graph, Group
from build_engines.compress.int8.number import Number
from build_engines.compress.int8.observe import Observation
from build_engines.compress.int8.ranges import candidate_ranges

FloatArray = NDArray[np.float32]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_TAIL = 0.02
_CLIP_GAIN = 1.25
_CLIPS = np.linspace(0.6, 1.0, 11)


@dataclass(frozen=True)
class Plan:
    """How one group is quantized.

    Attributes:
        group: The layers.
        alpha: Strength of the migration; None for none.
        smooth: float32 [K], the migration vector s: the input is divided by it, the weight multiplied.
        centre: float32 [K], subtracted from the input before the division; None for zeros.
        method: How the range was found.
        scale: Scale of the (migrated) input.
        weight_scales: float32 [N] by layer.
        shifts: float32 [N] by layer, added to its bias: what the centre takes away, and the correction.
        error: Squared error of the outputs over their energy, on the sampled rows.
    """

    group: Group
    alpha: float | None
    smooth: FloatArray | None
    centre: FloatArray | None
    method: str
    scale: float
    weight_scales: Mapping[str, FloatArray]
    shifts: Mapping[str, FloatArray]
    error: float


Tried = dict[tuple[float | None, str], Plan]
"""Plans by alpha and method."""


class GroupSearch:
    """Tries settings of one group on sampled rows of its input.

    Args:
        graph: Holds the weights.
        group: The layers.
        observation: Of their input; gives ranges and migration.
        sample: float32 [rows, K], rows of other text, centred alike, by which settings are judged:
            what was not seen before shows which ranges are too tight.
        number: Format to quantize to.
        tried: What an earlier search of the same group on the same rows found; this one adds to it.
    """

    def __init__(
        self,
        graph: Graph,
        group: Group,
        observation: Observation,
        sample: FloatArray,
        number: Number,
        tried: Tried | None = None,
    ) -> None:
        """Compute the reference outputs."""
        self._tried: Tried = {} if tried is None else tried
        self.group = group
        self.number = number
        self.observation = observation
        # [K, N] whatever the stored layout
        self.weights = {
            m.name: np.ascontiguousarray(_as_kn(graph.array(m.weight), m.axis)) for m in group.members
        }
        self.rows = sample
        self.joined = np.concatenate(list(self.weights.values()), axis=1)
        self.reference = self.rows @ self.joined
        whole = self.reference
        if observation.centre is not None:
            whole = whole + observation.centre @ self.joined
        energy = np.square(whole, dtype=np.float64).sum(axis=1)
        # Rows count by their relative error, so that a few of huge values do not decide alone; those below
        # the median count no more than it, since they are added to a residual that hides their error.
        floor = float(np.median(energy)) if energy.size else 0.0
        self._row_weights = 1.0 / np.maximum(energy, max(floor, 1e-12))
        seen = observation.histogram
        self.moments = (seen.squares / max(seen.rows, 1)).astype(np.float32)
        if group.shared_weight:  # the same scales wherever the weight serves, so that it is stored once
            self.moments = np.ones_like(self.moments)

    def best(self, method: str, smooth: bool) -> Plan:
        """The plan with the least error.

        Args:
            method: ``auto`` or one method of :mod:`ranges`.
            smooth: Whether to search a migration.
        """
        plans = [self.plan(None, method)]
        if smooth and not self.group.shared_weight:
            plans += [self.plan(alpha, method) for alpha in ALPHAS]
        return min(plans, key=lambda plan: plan.error)

    def others(self, method: str, count: int) -> list[Plan]:
        """The best plan of each alpha, in the order of their errors; at most ``count``."""
        if self.group.shared_weight:
            return []
        return sorted((self.plan(alpha, method) for alpha in ALPHAS), key=lambda plan: plan.error)[:count]

    def widened(self, plan: Plan, maxima: FloatArray) -> Plan:
        """A ``max`` plan whose range holds further text as well.

        Args:
            plan: As :meth:`best` chose it.
            maxima: float32 [K], largest magnitudes in that text.
        """
        if plan.method != "max":
            return plan
        peak = np.maximum(self.observation.histogram.maxima, maxima)
        top = float((peak if plan.smooth is None else peak / plan.smooth).max())
        return replace(plan, scale=max(plan.scale, float(np.float32(top / self.number.limit))))

    def plan(self, alpha: float | None, method: str) -> Plan:
        """The best range for one alpha."""
        if (alpha, method) not in self._tried:
            self._try(alpha, method)
        return self._tried[alpha, method]

    def _try(self, alpha: float | None, method: str) -> None:
        """Find :meth:`plan`; what ``auto`` tries includes what ``max`` would."""
        smooth = None if alpha is None else self.migration(alpha)
        seen = self.observation.histogram
        # The largest magnitude needs no histogram.
        counts, top = (np.zeros(0), seen.top(smooth)) if method == "max" else seen.merged(smooth)
        scales = {
            name: np.float32(found / self.number.limit)
            for name, found in candidate_ranges(counts, top, self.number, method).items()
        }
        weight, weight_scales = self.quantized_weights(smooth)
        rows = self.rows if smooth is None else self.rows / smooth
        # Several methods often agree.
        errors = {
            scale: self._error(self.number.fake(rows, scale) @ weight)
            for scale in dict.fromkeys(scales.values())
        }
        best = min(scales, key=lambda name: errors[scales[name]])
        # Clipping has to earn it: text that was never seen overflows a clipped range first.
        if "max" in scales and errors[scales["max"]] <= _CLIP_GAIN * errors[scales[best]]:
            best = "max"
        for asked, name in {method: best, **({"max": "max"} if "max" in scales else {})}.items():
            self._tried[alpha, asked] = Plan(
                group=self.group,
                alpha=alpha,
                smooth=smooth,
                centre=self.observation.centre,
                method=name,
                scale=float(scales[name]),
                weight_scales=weight_scales,
                shifts={},
                error=errors[scales[name]],
            )

    def corrected(self, plan: Plan) -> Plan:
        """The plan with the mean error of each output channel to be added to the bias.

        Bias correction of Nagel et al. 2019 (arXiv:1906.04721), with the error measured on data.
        """
        weight = np.concatenate(
            [self._rounded(name, plan.smooth, plan.weight_scales[name]) for name in self.weights], axis=1
        )
        rows = self.rows if plan.smooth is None else self.rows / plan.smooth
        outputs = self.number.fake(rows, np.float32(plan.scale)) @ weight
        weights = self._row_weights / self._row_weights.sum()
        shift = ((self.reference - outputs) * weights[:, None]).sum(axis=0).astype(np.float32)
        if plan.centre is not None:
            shift = shift + plan.centre @ self.joined
        parts = np.split(shift, np.cumsum([w.shape[1] for w in self.weights.values()])[:-1])
        shifts = {
            member.name: part
            for member, part in zip(self.group.members, parts, strict=True)
            if member.bias is not None
        }
        return replace(plan, shifts=shifts)

    def migration(self, alpha: float) -> FloatArray:
        """The vector s of SmoothQuant, Xiao et al. 2022 (arXiv:2211.10438), equation 4.

        ``s_k = max|X_k| ** alpha / max|W_k| ** (1 - alpha)``, here with a geometric mean of 1.
        """
        activations = np.maximum(self.observation.histogram.maxima, 1e-5).astype(np.float64)
        weights = np.maximum(np.abs(self.joined).max(axis=1), 1e-5).astype(np.float64)
        logs = alpha * np.log(activations) - (1 - alpha) * np.log(weights)
        vector: FloatArray = np.exp(np.clip(logs - logs.mean(), -6, 6)).astype(np.float32)
        return vector

    def quantized_weights(self, smooth: FloatArray | None) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Dequantized weights of all layers side by side [K, N], and their scales."""
        moments = self.moments if smooth is None else self.moments / np.square(smooth)
        scales: dict[str, FloatArray] = {}
        found = []
        for name, weight in self.weights.items():
            moved = weight if smooth is None else weight * smooth[:, None]
            scales[name] = weight_scales(moved, moments, self.number)
            found.append(self.number.fake(moved, scales[name][None, :]))
        return np.concatenate(found, axis=1), scales

    def _rounded(self, name: str, smooth: FloatArray | None, scales: FloatArray) -> FloatArray:
        """Dequantized weight of one layer [K, N] for scales that were found before."""
        weight = self.weights[name]
        return self.number.fake(weight if smooth is None else weight * smooth[:, None], scales[None, :])

    def _error(self, outputs: FloatArray) -> float:
        """Relative squared error of the rows: their mean, and a part of the worst.

        The mean alone would always clip a little more than a rare text bears, and the gate has a minimum.
        """
        squares = np.square(outputs - self.reference, dtype=np.float64).sum(axis=1)
        relative = squares * self._row_weights
        return float(relative.mean() + _TAIL * relative.max())


def weight_scales(weight: FloatArray, moments: FloatArray, number: Number) -> FloatArray:
    """Scale of each output channel with the least expected squared error of the output.

    Args:
        weight: float32 [K, N], migrated.
        moments: float32 [K], mean square of each input channel: errors count where inputs are large.
        number: Format.

    Returns:
        float32 [N].
    """
    peak = np.maximum(np.abs(weight).max(axis=0), 1e-8) / number.limit
    best = np.full(weight.shape[1], np.inf)
    scales = peak.astype(np.float32)
    for clip in _CLIPS[::-1]:
        trial = (peak * clip).astype(np.float32)
        error = moments @ np.square(weight - number.fake(weight, trial[None, :]))
        better = error < best
        scales = np.where(better, trial, scales)
        best = np.where(better, error, best)
    found: FloatArray = scales.astype(np.float32)
    return found


def stored_weight(graph: Graph, plan: Plan, name: str) -> tuple[FloatArray, FloatArray]:
    """Migrated weight of a layer in its stored layout, and its scales shaped to broadcast over it."""
    member = next(m for m in plan.group.members if m.name == name)
    weight = graph.array(member.weight)
    scales = plan.weight_scales[name]
    if plan.smooth is not None:
        weight = weight * (plan.smooth[:, None] if member.axis == 1 else plan.smooth[None, :])
    return weight, scales[None, :] if member.axis == 1 else scales[:, None]


def _as_kn(weight: FloatArray, axis: int) -> FloatArray:
    """A stored weight as [inputs, outputs]."""
    return weight if axis == 1 else weight.T
