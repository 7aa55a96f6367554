"""The last step: the model folder, staged and then exchanged with what is there."""

from __future__ import annotations

import python_backends
from build_engines import generation, repository
from build_engines.cache import content_key, disk_error
from build_engines.context import StepOutcome
from build_engines.generation.context import GenerationContext
from build_engines.repository.publish import publish, published_key, published_version, staging_folder
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
        version = published_version(context.repository, recipe.name)
        reused = published_key(context.repository, recipe.name) == key and context.rerun != self.name
        if not reused:
            version += 1
            facts = {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_path": str(context.recipe_path),
                "task": "generation",
                "engine": chosen.engine,
                "precision": chosen.precision,
                "model_type": context.settled.facts.model_type,
                "forced": context.forced,
            }
            try:
                with staging_folder(context.repository, recipe.name) as staging:
                    assemble_generator(
                        recipe,
                        context.settled,
                        chosen,
                        context.tokenizer,
                        staging,
                        version,
                        key,
                        facts,
                    )
                    publish(staging, context.repository, recipe.name)
            except OSError as error:
                raise disk_error(error, context.repository) from error
        return StepOutcome(
            reused=reused,
            figures={
                "repository": str(context.repository),
                "models": [recipe.name],
                "version": version,
                "key": key,
            },
        )
