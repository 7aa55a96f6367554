"""Step 4: safetensors to OpenVINO's IR in float32, with the KV cache as state."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import build_engines
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext
from build_engines.versions import package_versions, source_hash


class ExportStep:
    """Writes ``openvino_model.xml``; nothing is done for TensorRT-LLM, which reads the weights themselves."""

    name = "export"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Export, or reuse the export of the same weights by the same code."""
        if context.engine == "tensorrt-llm":
            note = "tensorrt-llm takes the safetensors themselves and compiles them where it is started"
            return StepOutcome(skipped=True, notes=(note,))
        context.exported, reused = context.artifact(
            self.name,
            partial(_make, context),
            files=context.model.hashes,
            facts=context.settled.facts.as_dict(),
            versions=package_versions(("torch", "transformers", "openvino")),
            code=source_hash(
                build_engines.__file__, "generation/export.py", "generation/load.py", "export/load.py"
            ),
        )
        size = sum(path.stat().st_size for path in context.exported.iterdir())
        return StepOutcome(reused=reused, figures={"bytes": size, "states": 2 * context.settled.facts.layers})


def _make(context: GenerationContext, folder: Path) -> None:
    """Load the model and trace it."""
    from build_engines.generation.export import IR, export_stateful
    from build_engines.generation.load import load_causal

    facts = context.settled.facts
    export_stateful(load_causal(context.model, "sdpa"), facts, folder / IR)
