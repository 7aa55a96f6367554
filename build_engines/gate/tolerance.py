"""How far one run may be from another, by precision."""

from __future__ import annotations

from dataclasses import dataclass

from tritonforge.recipe import Gate, Precision, Task

_FP32_DIFFERENCE = 1e-4
_LEAST_COSINE: dict[Precision, float] = {"fp16": 0.999, "bf16": 0.99}
_MOST_SCORE: dict[Precision, float] = {"fp16": 0.01, "bf16": 0.05}
_QUANTIZED_SCORE = 0.25  # beyond it the engine is broken, not rounded; agreement judges the rest
_SAME_TEXT_COSINE = 0.999


@dataclass(frozen=True)
class Tolerance:
    """What is compared, and the bound.

    Attributes:
        kind: ``max_difference`` (an upper bound), or ``min_cosine`` (a lower one).
        bound: The bound.
    """

    kind: str
    bound: float

    def allows(self, figure: float) -> bool:
        """Whether a figure keeps the bound; NaN does not."""
        return figure <= self.bound if self.kind == "max_difference" else figure >= self.bound


def to_reference(precision: Precision, task: Task, gate: Gate) -> Tolerance:
    """For an engine against the float32 reference: float32 by difference, the others by cosine.

    Scores of a classifier are compared by their difference in every precision: they lie between 0 and 1,
    and a lone score has no direction.
    """
    if precision == "fp32":
        return Tolerance("max_difference", _FP32_DIFFERENCE)
    if task == "classification":
        return Tolerance("max_difference", _MOST_SCORE.get(precision, _QUANTIZED_SCORE))
    return Tolerance("min_cosine", _LEAST_COSINE.get(precision, gate.min_cosine))


def to_itself(precision: Precision, task: Task, gate: Gate) -> Tolerance:
    """For an engine against itself: the same text again, or among other neighbours.

    Sums in another order differ in the last bits, and a quantizer may turn that into a whole step. Dynamic
    INT8 is let off: it takes the ranges of activations from all texts of a run, by design, and each text
    must stay as near to float32 as the gate asks of it.
    """
    if precision == "int8-dynamic":
        return to_reference(precision, task, gate)
    if precision == "fp32":
        return Tolerance("max_difference", _FP32_DIFFERENCE)
    if task == "classification":
        return Tolerance("max_difference", _MOST_SCORE.get(precision, _MOST_SCORE["bf16"]))
    return Tolerance("min_cosine", _SAME_TEXT_COSINE)
