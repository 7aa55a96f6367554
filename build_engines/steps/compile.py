"""Step 6: ONNX to each engine's own form, in every precision that the recipe wants tried."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import build_engines
from build_engines.candidates import wanted
from build_engines.context import BuildContext, Candidate, StepOutcome
from build_engines.engines import ENGINES, CompiledEngine, CompileRequest, Engine
from build_engines.engines.base import FIGURES_FILE, FloatPart
from build_engines.versions import source_hash
from tritonforge.recipe import EngineName, Precision, Recipe


class CompileStep:
    """Compiles every candidate; the recipe's own section of an engine decides with it."""

    name = "compile"

    def run(self, context: BuildContext) -> StepOutcome:
        """Compile, or reuse."""
        recipe = context.recipe
        figures: dict[str, Any] = {}
        all_reused = True
        for name, precision in wanted(recipe, context.texts is not None):
            engine = ENGINES[name]
            part = f"{name}-{precision}"
            folder, reused = context.artifact(
                self.name,
                partial(self._make, context, engine, precision),
                part=part,
                graph=context.keys[f"quantize-{precision}" if precision in context.quantized else "export"],
                precision=precision,
                engine=engine.describe(),
                section=_section(recipe, name, precision),
                code=source_hash(
                    build_engines.__file__,
                    "engines",
                    "compress/half.py",
                    "compress/half_islands.py",
                    "compress/weights.py",
                    "compress/dynamic_int8.py",
                ),
            )
            all_reused &= reused
            facts = json.loads((folder / "compile.json").read_text(encoding="utf-8"))
            compiled = CompiledEngine(
                *(name, precision, context.layout, folder / "model", facts["model_file"]),
                float_part=_float_part(recipe, name, precision),
            )
            context.candidates[part] = Candidate(compiled, asked=recipe.precision in {"auto", precision})
            figures[part] = {"bytes": compiled.size_bytes, **engine.describe(), **_shown(folder / "notes")}
        return StepOutcome(reused=all_reused, figures=figures)

    def _make(self, context: BuildContext, engine: Engine, precision: Precision, folder: Path) -> None:
        """Compile into an empty folder."""
        request = CompileRequest(
            onnx_path=context.quantized.get(precision, context.exported),
            precision=precision,
            layout=context.layout,
            spec=context.settled,
            recipe=context.recipe,
            folder=folder / "model",
            notes=folder / "notes",
            cache=context.build_dir / "cache" / engine.name,
        )
        for path in (request.folder, request.notes, request.cache):
            path.mkdir(parents=True, exist_ok=True)
        model_file = engine.compile(request)
        (folder / "compile.json").write_text(json.dumps({"model_file": model_file}), encoding="utf-8")


def _section(recipe: Recipe, name: EngineName, precision: Precision) -> list[object] | None:
    """What of the recipe decides how an engine is made, or how it runs."""
    if name == "tensorrt":
        return [recipe.tensorrt.model_dump(), recipe.batching.model_dump()]
    float_part = _float_part(recipe, name, precision)
    return None if float_part == "fp32" else [float_part]


def _float_part(recipe: Recipe, name: EngineName, precision: Precision) -> FloatPart:
    """What the recipe says of quantized graphs; float32 stays what the others are judged by."""
    return recipe.openvino.float_part if name == "openvino" and precision.startswith("int") else "fp32"


def _shown(notes: Path) -> dict[str, Any]:
    """What the engine left for the report."""
    path = notes / FIGURES_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
