"""Step."""

from __future__ import annotations

from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext


class MeasureStep:
    """Not yet."""

    name = "measure"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Nothing."""
        return StepOutcome(skipped=True)
