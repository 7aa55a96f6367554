"""The last step: the model folder, staged and then exchanged with what is there."""

from __future__ import annotations

from pathlib import Path

import python_backends
from build_engines import generation, repository
from build_engines.cache import content_key
from build_engines.context import StepOutcome
from build_engines.edge import generator_memory
from build_engines.generation.context import GenerationContext
from build_engines.steps.publish import publish_models
from build_engines.versions import source_hash


class PublishStep:
    """Writes the one model; leaves the repository alone if it is up to date."""

    name = "publish"

    def run(self, context: GenerationContext) -> StepOutcome:
        """Stage, then exchange."""
        from build_engines.generation.repository import assemble_generator

        recipe, chosen = context.recipe, context.winner
        key = context.keys[self.name] = content_key(
            compressed=context.keys[f"compress-{chosen.part}"],
            part=chosen.part,
            recipe=recipe.model_dump(),
            spec=context.settled.figures(),
            tokenizer=context.keys["tokenize"],
            code=source_hash(python_backends.__file__)
            + source_hash(str(repository.__file__))
            + source_hash(str(generation.__file__), "repository.py"),
        )
        facts = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_path": str(context.recipe_path),
            "task": "generation",
            "engine": chosen.engine,
            "precision": chosen.precision,
            "model_type": context.settled.facts.model_type,
            "forced": context.forced,
        }

        def write(staging: Path, version: int) -> None:
            assemble_generator(
                recipe, context.settled, chosen, context.tokenizer, staging, version, key, facts
            )

        memory = generator_memory(context) if recipe.target == "edge" else {}
        return publish_models(context, key, (recipe.name,), write, memory=memory)
