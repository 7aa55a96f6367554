"""Step 1: find the model's files, and read what they say of themselves."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import build_engines
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext
from build_engines.generation.engines import choose_engine, wanted_precisions
from build_engines.generation.facts import ModelFacts
from build_engines.generation.source import GgufFile, find_generator
from build_engines.generation.spec import settle_generator
from build_engines.model_files import ModelFiles, file_sha256
from build_engines.versions import package_versions, source_hash


class ResolveStep:
    """Checks the files and settles lengths; what a GGUF file says is read once it is imported."""

    name = "resolve"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Find, check, settle."""
        context.engine = choose_engine(context.recipe)
        wanted_precisions(context.recipe, context.engine)  # refused here, before minutes of work
        context.source = source = find_generator(context.recipe.model)
        figures: dict[str, Any] = {"engine": context.engine}
        if isinstance(source, GgufFile):
            size = source.path.stat().st_size
            hashes = {source.path.name: file_sha256(source.path)}
            figures |= {"file": str(source.path), "weights_bytes": size, "sha256": hashes}
            return StepOutcome(figures=figures)
        context.files = source
        notes = settle(context, self.name)
        figures |= {
            "folder": str(source.folder),
            "model_type": context.settled.facts.model_type,
            "weights_bytes": sum(path.stat().st_size for path in source.weights),
            "spec": context.settled.figures(),
            "sha256": source.hashes,
        }
        return StepOutcome(figures=figures, notes=notes)


def settle(context: GenerationContext, step: str) -> tuple[str, ...]:
    """Read what the model is, or what was read of the same files before, and settle the recipe.

    Returns:
        Notes on what was assumed.
    """
    folder, _ = context.artifact(
        step,
        partial(_make, context.model),
        part="facts",
        files=context.model.hashes,
        versions=package_versions(("transformers", "tokenizers")),
        code=source_hash(build_engines.__file__, "generation/facts.py"),
    )
    facts = ModelFacts(**json.loads((folder / "facts.json").read_text(encoding="utf-8")))
    context.spec = settle_generator(context.recipe, facts, context.engine)
    return context.spec.notes


def _make(files: ModelFiles, folder: Path) -> None:
    """Let transformers read config and tokenizer, which takes seconds."""
    from build_engines.generation.facts import read_facts

    facts = read_facts(files).as_dict()
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
