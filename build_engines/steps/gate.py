"""Step 9: what is served is chosen."""

from __future__ import annotations

from build_engines.context import BuildContext, Candidate, StepOutcome


class GateStep:
    """Takes the fastest candidate that the recipe allows."""

    name = "gate"

    def run(self, context: BuildContext) -> StepOutcome:
        """Choose."""
        asked = [candidate for candidate in context.candidates.values() if candidate.asked]
        context.chosen = max(asked, key=_throughput)
        return StepOutcome(figures={"chosen": context.chosen.part, "verdicts": {}})


def _throughput(candidate: Candidate) -> float:
    """Sequences a second; a candidate that was not measured loses."""
    return candidate.speed.sequences_per_second if candidate.speed else 0.0
