"""Step 5: graphs with explicit Q/DQ, calibrated on the recipe's text, for the precisions that need one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import build_engines
from build_engines.candidates import wanted
from build_engines.context import BuildContext, StepOutcome
from build_engines.versions import package_versions, source_hash

_AIMED_AT = {"mean_cosine", "min_cosine", "overlap", "top_k"}  # thresholds by which layers are chosen
_CALIBRATED: tuple[Literal["int8", "fp8"], ...] = ("int8", "fp8")


class QuantizeStep:
    """Writes ``model.onnx`` with Q/DQ and what calibration found; does nothing where none is wanted."""

    name = "quantize"

    def run(self, context: BuildContext) -> StepOutcome:
        """Calibrate, or reuse."""
        precisions = {precision for _, precision in wanted(context.recipe, context.texts is not None)}
        figures: dict[str, Any] = {}
        notes: list[str] = []
        all_reused = True
        for number in (n for n in _CALIBRATED if n in precisions):
            folder, reused = context.artifact(
                self.name,
                partial(self._make, context, number),
                part=number,
                export=context.keys["export"],
                texts=context.keys["tokenize"],
                calibration=context.recipe.calibration.model_dump(),
                quantization=context.recipe.quantization.model_dump(),
                gate=context.recipe.gate.model_dump(
                    include={"mean_cosine", "min_cosine", "overlap", "top_k"}
                ),
                token_budget=context.recipe.batching.token_budget,
                versions=package_versions(("onnx", "onnxruntime", "numpy")),
                code=source_hash(
                    build_engines.__file__, "compress/int8", "check/compare.py", "gate/accuracy.py"
                ),
            )
            all_reused &= reused
            context.quantized[number] = folder / "model.onnx"
            figures[number] = json.loads((folder / "quantization.json").read_text(encoding="utf-8"))
            notes += [f"{number}: {note}" for note in figures[number]["notes"]]
        return StepOutcome(reused=all_reused, skipped=not figures, figures=figures, notes=tuple(notes))

    def _make(self, context: BuildContext, number: Literal["int8", "fp8"], folder: Path) -> None:
        """Calibrate into an empty folder."""
        from build_engines.compress.int8 import quantize_calibrated

        assert context.texts is not None  # the tokenize step refuses a recipe without text
        report = quantize_calibrated(
            context.exported,
            folder / "model.onnx",
            context.texts.calibration,
            context.settled,
            layout=context.layout,
            quantization=context.recipe.quantization,
            calibration=context.recipe.calibration,
            gate=context.recipe.gate,
            number=number,
            token_budget=context.recipe.batching.token_budget,
            threads=context.recipe.threads.engine,
            progress=context.progress,
        )
        (folder / "quantization.json").write_text(json.dumps(report.as_dict()), encoding="utf-8")
