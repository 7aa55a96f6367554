"""Step 5: speed on the recipe's length mix, and the choice of the engine."""

from __future__ import annotations

import json
from pathlib import Path

from build_engines.check.speed import Speed, measure_speeds
from build_engines.context import BuildContext, Candidate, StepOutcome
from build_engines.engines import ENGINES
from build_engines.versions import cpu_name


class MeasureStep:
    """Measures every candidate with the runner that will serve it, and takes the faster."""

    name = "measure"

    def run(self, context: BuildContext) -> StepOutcome:
        """Measure, or reuse what was measured on this processor."""
        recipe = context.recipe
        folder, reused = context.artifact(
            self.name,
            lambda into: self._make(context, into),
            checked=[context.keys[f"check-{candidate.part}"] for candidate in context.candidates.values()],
            mix=[share.model_dump() for share in recipe.length_mix],
            token_budget=recipe.batching.token_budget,
            threads=recipe.threads.engine,
            cpu=cpu_name(),
        )
        figures = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
        for name, candidate in context.candidates.items():
            candidate.speed = Speed(**figures[name])
        context.chosen = max(context.candidates.values(), key=_throughput)
        return StepOutcome(reused=reused, figures=figures, notes=(self._reason(context),))

    def _make(self, context: BuildContext, folder: Path) -> None:
        """Load the engines and measure."""
        threads = context.recipe.threads.engine
        loaded = {
            name: (ENGINES[name].load(candidate.compiled, threads), candidate.compiled)
            for name, candidate in context.candidates.items()
        }
        speeds = measure_speeds(loaded, context.settled, context.recipe)
        figures = {name: speed.figures() for name, speed in speeds.items()}
        (folder / "speed.json").write_text(json.dumps(figures), encoding="utf-8")

    def _reason(self, context: BuildContext) -> str:
        """Say which engine is served, and why."""
        chosen = context.winner.compiled.engine
        if context.recipe.engine != "auto":
            return f"{chosen}, as the recipe asks"
        others = [c for c in context.candidates.values() if c is not context.winner]
        rivals = ", ".join(
            f"{_throughput(context.winner) / _throughput(c):.2f} times {c.compiled.engine}" for c in others
        )
        return f"{chosen} chosen: {rivals} on the recipe's length mix"


def _throughput(candidate: Candidate) -> float:
    """Sequences a second; a candidate that was not measured loses."""
    return candidate.speed.sequences_per_second if candidate.speed else 0.0
