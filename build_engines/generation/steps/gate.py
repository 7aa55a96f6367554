"""Step."""

from __future__ import annotations

from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext


class GateStep:
    """Not yet."""

    name = "gate"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Take the first."""
        context.chosen = next(iter(context.candidates.values()))
        return StepOutcome(figures={"chosen": context.chosen.part, "verdicts": {}})
