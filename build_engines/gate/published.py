"""Finds what is published, and what it was built from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from build_engines.engines import CompiledEngine
from build_engines.repository.names import ModelNames
from tritonforge.errors import RepositoryError
from tritonforge.recipe import Recipe
from tritonforge.server.repository import MANIFEST


@dataclass(frozen=True)
class Published:
    """A model of a repository.

    Attributes:
        version: Newest, which is the one that Triton loads.
        recipe: As it was built.
        compiled: The engine's files, in the version folder.
        tokenizer: The ``tokenizer.json`` beside them.
        pruned: Whether its weights are pruned ones.
        forced: Whether the gate had refused it.
    """

    version: int
    recipe: Recipe
    compiled: CompiledEngine
    tokenizer: Path
    pruned: bool
    forced: bool


def find_published(repository: Path, model: str) -> Published:
    """Read a model's manifest.

    Args:
        repository: The model repository.
        model: Name of the ensemble, or of a part of it.

    Raises:
        RepositoryError: If it is not there, or was not built with what is needed to judge it.
    """
    path = repository / model / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name, version, facts = manifest["recipe"], int(manifest["version"]), manifest["build"]
        recipe = Recipe.model_validate(facts["recipe"])
        names = ModelNames(name, fused=recipe.stages == "fused")
        engine = repository / names.engine / str(version)
        published = Published(
            version=version,
            recipe=recipe,
            compiled=CompiledEngine(
                *(facts["engine"], facts["precision"], facts["layout"], engine, facts["model_file"]),
                float_part=facts.get("float_part", "fp32"),
            ),
            tokenizer=repository / names.tokenizing / str(version) / "tokenizer.json",
            pruned=bool(facts.get("pruned")),
            forced=bool(facts.get("forced")),
        )
    except OSError as error:
        known = sorted(p.parent.name for p in repository.glob(f"[!.]*/{MANIFEST}"))
        raise RepositoryError(
            f"there is no model {model!r}",
            where=str(repository),
            mend=f"it holds {', '.join(known)}" if known else "build one: tritonforge build RECIPE",
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RepositoryError(
            f"does not say what was built from what: {type(error).__name__}: {error}",
            where=str(path),
            mend="build it again: tritonforge build RECIPE",
        ) from error
    for file in (engine / facts["model_file"], published.tokenizer):
        if not file.is_file():
            raise RepositoryError(
                "a published file is missing",
                where=str(file),
                mend="tritonforge build RECIPE --rerun publish",
            )
    return published
