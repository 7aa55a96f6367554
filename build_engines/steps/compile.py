"""Step 3: ONNX to each engine's own form, in the recipe's precision."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import build_engines
from build_engines.context import BuildContext, Candidate, StepOutcome
from build_engines.engines import ENGINES, CompiledEngine, Engine
from build_engines.versions import source_hash


class CompileStep:
    """Compiles the engine that the recipe names, or all of them for ``engine: auto``."""

    name = "compile"

    def run(self, context: BuildContext) -> StepOutcome:
        """Compile, or reuse."""
        recipe = context.recipe
        wanted = list(ENGINES) if recipe.engine == "auto" else [recipe.engine]
        figures: dict[str, Any] = {}
        all_reused = True
        for name in wanted:
            engine = ENGINES[name]
            folder, reused = context.artifact(
                self.name,
                partial(self._make, context, engine),
                part=f"{name}-{recipe.precision}",
                export=context.keys["export"],
                precision=recipe.precision,
                engine=engine.describe(),
                code=source_hash(build_engines.__file__, "engines", "compress"),
            )
            all_reused &= reused
            facts = json.loads((folder / "compile.json").read_text(encoding="utf-8"))
            compiled = CompiledEngine(
                name, recipe.precision, context.layout, folder / "model", facts["model_file"]
            )
            context.candidates[name] = Candidate(compiled)
            figures[name] = {"bytes": compiled.size_bytes, **engine.describe()}
        return StepOutcome(reused=all_reused, figures=figures)

    def _make(self, context: BuildContext, engine: Engine, folder: Path) -> None:
        """Compile into an empty folder."""
        (folder / "model").mkdir()
        model_file = engine.compile(context.exported, context.recipe.precision, folder / "model")
        (folder / "compile.json").write_text(json.dumps({"model_file": model_file}), encoding="utf-8")
