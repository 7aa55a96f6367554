"""Step 7: how fast every candidate generates, alone and for several at once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import build_engines
import python_backends
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext
from build_engines.versions import package_versions, source_hash
from tritonforge.server.resources import cpu_name


class MeasureStep:
    """Measures the candidates one after the other, each as it will be served."""

    name = "measure"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Measure, or reuse what was measured on this processor."""
        if context.engine == "tensorrt-llm":
            return StepOutcome(skipped=True)
        folder, reused = context.artifact(
            self.name,
            partial(self._make, context),
            checked={part: context.keys[f"check-{part}"] for part in context.candidates},
            cpu=cpu_name(),
            versions=package_versions(("openvino", "openvino-genai")),
            code=source_hash(build_engines.__file__, "generation/speed.py", "generation/serving.py")
            + source_hash(python_backends.__file__, "generator"),
        )
        figures = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
        for part, candidate in context.candidates.items():
            candidate.speed = figures[part]
        return StepOutcome(reused=reused, figures=figures)

    def _make(self, context: GenerationContext, folder: Path) -> None:
        """Load the engines, one after the other, and measure."""
        from build_engines.generation.speed import measure_speed

        figures = {part: measure_speed(context, candidate) for part, candidate in context.candidates.items()}
        (folder / "speed.json").write_text(json.dumps(figures), encoding="utf-8")
