"""Step 2: a GGUF file becomes safetensors, so that all that follows knows one format."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import build_engines
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext
from build_engines.generation.source import GgufFile
from build_engines.generation.steps.resolve import settle
from build_engines.model_files import file_sha256, find_model
from build_engines.versions import package_versions, source_hash


class ImportStep:
    """Dequantizes the weights; passes over a model that is safetensors already."""

    name = "import"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Import, or reuse."""
        source = context.source
        if not isinstance(source, GgufFile):
            return StepOutcome(skipped=True)
        folder, reused = context.artifact(
            self.name,
            partial(_make, source.path),
            file=file_sha256(source.path),
            versions=package_versions(("transformers", "tokenizers", "gguf", "safetensors")),
            code=source_hash(build_engines.__file__, "generation/load.py", "export/load.py"),
        )
        context.files = replace(find_model(str(folder)), source=source.source)
        notes = settle(context, self.name)
        return StepOutcome(
            reused=reused,
            figures={
                "model_type": context.settled.facts.model_type,
                "weights_bytes": sum(path.stat().st_size for path in context.files.weights),
                "spec": context.settled.figures(),
            },
            notes=(
                f"{source.path.name} was dequantized to float16: the figures below are against these, "
                "which have what quantization took from the original ones",
                *notes,
            ),
        )


def _make(path: Path, folder: Path) -> None:
    """Read the file with transformers and save it anew."""
    from build_engines.generation.load import dequantize_gguf

    dequantize_gguf(path, folder)
