"""The last step: the model repository, staged and then exchanged with what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import python_backends
from build_engines import repository as repository_package
from build_engines.cache import content_key, disk_error
from build_engines.context import BaseContext, BuildContext, StepOutcome
from build_engines.edge import check_files, check_memory, encoder_memory
from build_engines.engines.tensorrt.identity import check as check_plan
from build_engines.repository.assemble import assemble
from build_engines.repository.names import ModelNames
from build_engines.repository.publish import publish, published_key, published_version, staging_folder
from build_engines.versions import source_hash
from tritonforge.errors import BuildError


class PublishStep:
    """Writes tokenizer, engine and ensemble; leaves the repository alone if it is up to date."""

    name = "publish"

    def run(self, context: BuildContext) -> StepOutcome:
        """Stage, then exchange."""
        recipe, compiled = context.recipe, context.winner.compiled
        # A plan that this machine would not load is not put where a server looks for one.
        slower = check_plan(compiled.folder) if compiled.engine == "tensorrt" else []
        key = context.keys[self.name] = content_key(
            compiled=context.keys[f"compile-{context.winner.part}"],
            engine=compiled.engine,
            recipe=recipe.model_dump(),
            labels=context.settled.labels,
            tokenizer=context.keys["tokenize"],
            code=source_hash(python_backends.__file__) + source_hash(str(repository_package.__file__)),
        )
        names = ModelNames.of_recipe(recipe, compiled.engine)
        if names.fused and names.fans_out:
            raise BuildError(
                "TensorRT runs in a backend of its own, so it cannot be fused with the tokenizer",
                where=f"{context.recipe_path}: stages",
                mend="say `stages: separate`, or take a CPU engine",
            )

        def write(staging: Path, version: int) -> None:
            assemble(
                recipe,
                context.tokenizer,
                context.settled,
                compiled,
                staging,
                version,
                key,
                _facts(context),
            )

        memory = encoder_memory(context, compiled) if recipe.target == "edge" else {}
        return publish_models(context, key, names.all, write, tuple(slower), memory=memory)


def publish_models(
    context: BaseContext,
    key: str,
    models: Sequence[str],
    write: Callable[[Path, int], None],
    notes: tuple[str, ...] = (),
    *,
    memory: Mapping[str, int] | None = None,
) -> StepOutcome:
    """Stage a new version and exchange it with what is there, unless that has the same key already.

    Args:
        context: Of the build.
        key: Content key of what is to be published.
        models: Their names.
        write: Fills the staging folder with a version of them.
        notes: What a reader of the report should know.
        memory: For ``target: edge``: bytes that a server is estimated to hold, by what takes them.

    Raises:
        BuildError: If the disk is full, or cannot be written; if a bound of ``edge`` is exceeded.
    """
    name = context.recipe.name
    edge: dict[str, Any] = {}
    if context.recipe.target == "edge":
        edge = {"memory_bytes": check_memory(context.recipe, memory or {}), "memory": dict(memory or {})}
    version = published_version(context.repository, name)
    reused = published_key(context.repository, name) == key and context.rerun != PublishStep.name
    if not reused:
        version += 1
        try:
            with staging_folder(context.repository, name) as staging:
                write(staging, version)
                if edge:
                    edge["files_bytes"] = check_files(context.recipe, (staging / model for model in models))
                publish(staging, context.repository, name)
        except OSError as error:
            raise disk_error(error, context.repository) from error
    figures = {
        "repository": str(context.repository),
        "models": list(models),
        "version": version,
        "key": key,
    }
    if edge:
        figures["edge"] = edge
    return StepOutcome(reused=reused, figures=figures, notes=notes)


def _facts(context: BuildContext) -> dict[str, Any]:
    """What was built from what, for the manifests: enough to judge the published engine anew."""
    compiled = context.winner.compiled
    return {
        "recipe": context.recipe.model_dump(mode="json"),
        "recipe_path": str(context.recipe_path),
        "engine": compiled.engine,
        "precision": compiled.precision,
        "layout": compiled.layout,
        "model_file": compiled.model_file,
        "float_part": compiled.float_part,
        "pruned": context.pruned is not None,
        "forced": context.forced,
    }
