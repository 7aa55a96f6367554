"""The published model of a recipe, and repositories of it with other settings, as the build writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from build_engines.cache import build_lock
from build_engines.context import BuildContext
from build_engines.engines import CompiledEngine
from build_engines.gate.published import find_published
from build_engines.generation.context import GenerationContext, GeneratorCandidate
from build_engines.generation.repository import assemble_generator
from build_engines.generation.spec import settle_generator
from build_engines.pipeline import any_context, steps_of
from build_engines.repository.assemble import BACKENDS_FOLDER, assemble, link_or_copy
from build_engines.repository.publish import staging_folder
from tritonforge.errors import RecipeError, RepositoryError, first_line
from tritonforge.recipe import Recipe
from tritonforge.server.repository import MANIFEST

_KEY = "tune"  # in manifests: no build has it, so none takes a trial for its own
_OURS = {"model.py", BACKENDS_FOLDER, "__pycache__"}  # in a version folder, beside the engine's files
_FREE = (
    "stages",
    "batching",
    "instances",
    "threads",
    "queue",
    "cache",
    "warmup",
    "limits",
    "gate",
    "length_mix",
)
_FREE_OF_GENERATION = ("max_num_seqs", "max_num_batched_tokens", "max_tokens", "kv_cache_mib")


@dataclass(frozen=True)
class PublishedModel:
    """What a repository holds of a recipe.

    Attributes:
        recipe: The recipe to tune, its engine and precision set to those published.
        engine: The engine.
        precision: Its precision.
        task: ``embedding``, ``classification`` or ``generation``.
        size_bytes: Of the engine's files.
        write: Writes a servable repository for a recipe into an empty folder.
    """

    recipe: Recipe
    engine: str
    precision: str
    task: str
    size_bytes: int
    write: Callable[[Recipe, Path], None]

    @contextmanager
    def repository(self, recipe: Recipe, work: Path) -> Iterator[Path]:
        """A repository with other settings, removed at the end; weights are hard links.

        Raises:
            RecipeError: The model cannot be served so.
        """
        with staging_folder(work, "trial") as folder:
            try:
                self.write(recipe, folder)
            except ValueError as error:  # a number that the field of a config cannot hold
                raise RecipeError(f"cannot be written as a config: {first_line(error)}") from error
            yield folder


def find_model_of(recipe: Recipe, path: Path, repository: Path, build_root: Path) -> PublishedModel:
    """Find what was built from a recipe.

    Args:
        recipe: As loaded.
        path: Its file, for messages.
        repository: Where it was published.
        build_root: Where its artefacts lie.

    Raises:
        RepositoryError: It is not published, or was built from another recipe than this.
        TritonForgeError: The model's files are not what they were.
    """
    build = f"tritonforge build {path} --repository {repository}"
    manifest = _manifest(repository / recipe.name, build)
    facts: dict[str, Any] = manifest["build"]
    other = _differing(recipe, Recipe.model_validate(facts["recipe"]), facts)
    if other:
        raise RepositoryError(
            f"{recipe.name} was built from another recipe; {', '.join(other)} differ",
            where=str(repository),
            mend=f"build this one: {build} (or give --set as it was built with)",
        )
    pinned = recipe.model_copy(update={"engine": facts["engine"], "precision": facts["precision"]})
    context = any_context(pinned, path, repository, build_root)
    with build_lock(context.store.root, context.progress):
        for name, run in steps_of(context).items():
            if name in ("resolve", "import"):  # which reads what the model is; the rest makes files
                run()
    if isinstance(context, BuildContext):
        return _encoder(context, repository, facts)
    return _generator(context, repository / recipe.name / str(manifest["version"]), facts)


def _encoder(context: BuildContext, repository: Path, facts: dict[str, Any]) -> PublishedModel:
    published = find_published(repository, context.recipe.name)
    spec = context.settled

    def write(recipe: Recipe, folder: Path) -> None:
        # Of a fused model the tokenizer lies there too; it is put in its place by itself.
        with _only_files(published.compiled.folder, folder, published.tokenizer.name) as files:
            trial = facts | {"recipe": recipe.model_dump(mode="json")}
            engine: CompiledEngine = replace(published.compiled, folder=files)
            assemble(recipe, published.tokenizer, spec, engine, folder, 1, _KEY, trial)

    compiled = published.compiled
    return PublishedModel(
        context.recipe, compiled.engine, compiled.precision, spec.task, compiled.size_bytes, write
    )


def _generator(context: GenerationContext, version: Path, facts: dict[str, Any]) -> PublishedModel:
    model = context.settled.facts

    def write(recipe: Recipe, folder: Path) -> None:
        # The KV cache is sized by the recipe.
        spec = settle_generator(recipe, model, facts["engine"])
        with _only_files(version, folder) as files, staging_folder(folder, "none") as nothing:
            candidate = GeneratorCandidate(facts["engine"], facts["precision"], files)
            trial = facts | {"recipe": recipe.model_dump(mode="json")}
            assemble_generator(recipe, spec, candidate, nothing, folder, 1, _KEY, trial)

    size = sum(path.stat().st_size for path in version.iterdir())
    return PublishedModel(context.recipe, facts["engine"], facts["precision"], "generation", size, write)


@contextmanager
def _only_files(version: Path, beside: Path, *without: str) -> Iterator[Path]:
    """The files of a version folder without our backends, which the build puts there itself."""
    with staging_folder(beside, "files") as folder:
        for path in version.iterdir():
            if path.name not in _OURS.union(without):
                link_or_copy(path, folder / path.name)
        yield folder


def _manifest(model: Path, build: str) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((model / MANIFEST).read_text(encoding="utf-8"))
        for key in ("recipe", "engine", "precision"):
            data["build"][key]
        data["version"]
    except OSError:
        raise RepositoryError(
            f"{model.name} is not built yet", where=str(model.parent), mend=f"{build}; or add --build"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"does not say what it was built from: {type(error).__name__}: {error}",
            where=str(model / MANIFEST),
            mend=f"build it again: {build}",
        ) from error
    return data


def _differing(recipe: Recipe, built: Recipe, facts: dict[str, Any]) -> list[str]:
    """Keys that decide the files of an engine and differ; `auto` differs from nothing that it chose."""
    wanted = recipe.model_dump(mode="json")
    had = built.model_dump(mode="json") | {key: facts[key] for key in ("engine", "precision")}
    found = []
    for key, value in wanted.items():
        was = had[key]
        if key == "generation":
            value = {name: each for name, each in value.items() if name not in _FREE_OF_GENERATION}
            was = {name: each for name, each in was.items() if name not in _FREE_OF_GENERATION}
        if key in _FREE or value == was or (key in ("engine", "precision") and value == "auto"):
            continue
        found.append(key)
    return found


def remove_leftovers(work: Path) -> None:
    """Remove trials that a killed run left behind."""
    for folder in work.glob(".staging-trial-*"):
        shutil.rmtree(folder, ignore_errors=True)
