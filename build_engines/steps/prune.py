"""Step 3: a smaller model, where the recipe asks for one."""

from __future__ import annotations

from build_engines.context import BuildContext, StepOutcome


class PruneStep:
    """Nothing to do yet."""

    name = "prune"

    def run(self, context: BuildContext) -> StepOutcome:
        """Leave the model dense."""
        return StepOutcome(skipped=True)
