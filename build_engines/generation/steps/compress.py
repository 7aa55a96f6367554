"""Step 5: the weights in each precision that is wanted."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import build_engines
from build_engines.context import StepOutcome, made_by
from build_engines.generation.context import GenerationContext, GeneratorCandidate
from build_engines.generation.engines import wanted_precisions
from build_engines.repository.assemble import link_or_copy
from build_engines.versions import package_versions, source_hash
from tritonforge.recipe import GeneratorPrecision


class CompressStep:
    """Writes one folder a precision: IR for OpenVINO GenAI, links to the weights for TensorRT-LLM."""

    name = "compress"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Compress, or reuse."""
        figures: dict[str, Any] = {}
        all_reused = True
        notes = []
        for precision in wanted_precisions(context.recipe, context.engine):
            part = f"{context.engine}-{precision}"
            folder, reused = context.artifact(
                self.name,
                partial(self._make, context, precision),
                part=part,
                export=context.keys.get("export"),
                files=context.model.hashes,
                versions=package_versions(("openvino", "nncf")),
                code=source_hash(build_engines.__file__, "generation/compress.py"),
            )
            all_reused &= reused
            context.candidates[part] = GeneratorCandidate(context.engine, precision, folder)
            facts = json.loads((folder / "compress.json").read_text(encoding="utf-8"))
            size = sum(path.stat().st_size for path in served_files(folder))
            figures[part] = {"engine": context.engine, "bytes": size, **facts}
            if facts.get("note"):
                notes.append(f"{part}: {facts['note']}")
        return StepOutcome(reused=all_reused, figures=figures, notes=tuple(notes))

    def _make(self, context: GenerationContext, precision: GeneratorPrecision, folder: Path) -> None:
        """Fill an empty folder."""
        facts: dict[str, Any] = {}
        if context.engine == "tensorrt-llm":
            for path in context.model.weights:
                link_or_copy(path.resolve(), folder / path.name)
            index = context.model.folder / "model.safetensors.index.json"
            if index.is_file():
                link_or_copy(index.resolve(), folder / index.name)
        else:
            from build_engines.generation.compress import compress

            facts = compress(made_by(context.exported, "export"), precision, folder)
        (folder / "compress.json").write_text(json.dumps(facts), encoding="utf-8")


def served_files(folder: Path) -> list[Path]:
    """Files of a candidate that are served."""
    return sorted(path for path in folder.iterdir() if path.name != "compress.json")
