"""Step 5: speed on the recipe's length mix, and the choice of the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from build_engines.cache import content_key
from build_engines.check.speed import Speed, measure_speed
from build_engines.context import BuildContext, Candidate, StepOutcome
from build_engines.engines import ENGINES
from build_engines.versions import cpu_name


class MeasureStep:
    """Measures every candidate with the runner that will serve it, and takes the faster."""

    name = "measure"

    def run(self, context: BuildContext) -> StepOutcome:
        """Measure, or reuse what was measured on this processor."""
        recipe = context.recipe
        figures: dict[str, Any] = {}
        all_reused = True
        for name, candidate in context.candidates.items():
            kind = f"{self.name}-{name}-{candidate.compiled.precision}"
            key = context.keys[kind] = content_key(
                checked=context.keys[f"check-{name}-{candidate.compiled.precision}"],
                mix=[share.model_dump() for share in recipe.length_mix],
                token_budget=recipe.batching.token_budget,
                threads=recipe.threads.engine,
                cpu=cpu_name(),
            )
            context.progress(f"measure: {name}")
            folder, reused = context.store.get_or_make(
                kind,
                key,
                lambda into, c=candidate: self._make(context, c, into),  # type: ignore[misc]
                again=context.rerun == self.name,
            )
            all_reused &= reused
            candidate.speed = Speed(**json.loads((folder / "speed.json").read_text(encoding="utf-8")))
            figures[name] = candidate.speed.figures()
        context.chosen = max(context.candidates.values(), key=_throughput)
        return StepOutcome(reused=all_reused, figures=figures, notes=(self._reason(context),))

    def _make(self, context: BuildContext, candidate: Candidate, folder: Path) -> None:
        """Load the engine and measure."""
        compiled = candidate.compiled
        runner = ENGINES[compiled.engine].load(compiled, context.recipe.threads.engine)
        speed = measure_speed(runner, compiled, context.settled, context.recipe)
        (folder / "speed.json").write_text(json.dumps(speed.figures()), encoding="utf-8")

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
