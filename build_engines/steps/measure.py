"""Step 8: speed of every candidate on the recipe's length mix."""

from __future__ import annotations

import json
from pathlib import Path

from build_engines.check.speed import Speed, measure_speeds
from build_engines.context import BuildContext, StepOutcome
from build_engines.engines import ENGINES
from tritonforge.server.resources import cpu_name


class MeasureStep:
    """Measures the candidates in turns, with the runner that will serve them."""

    name = "measure"

    def run(self, context: BuildContext) -> StepOutcome:
        """Measure, or reuse what was measured on this processor."""
        recipe = context.recipe
        folder, reused = context.artifact(
            self.name,
            lambda into: self._make(context, into),
            checked={part: context.keys[f"check-{part}"] for part in context.candidates},
            mix=[share.model_dump() for share in recipe.length_mix],
            token_budget=recipe.batching.token_budget,
            threads=recipe.threads.engine,
            cpu=cpu_name(),
        )
        figures = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
        for part, candidate in context.candidates.items():
            candidate.speed = Speed(**figures[part])
        return StepOutcome(reused=reused, figures=figures)

    def _make(self, context: BuildContext, folder: Path) -> None:
        """Load the engines and measure."""
        threads = context.recipe.threads.engine
        loaded = {
            part: (ENGINES[candidate.compiled.engine].load(candidate.compiled, threads), candidate.compiled)
            for part, candidate in context.candidates.items()
        }
        speeds = measure_speeds(loaded, context.settled, context.recipe)
        figures = {part: speed.figures() for part, speed in speeds.items()}
        (folder / "speed.json").write_text(json.dumps(figures), encoding="utf-8")
