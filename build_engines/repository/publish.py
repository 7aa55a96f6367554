"""Puts staged model folders in the place of the old ones, so that no reader sees a half-written one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from build_engines.repository.assemble import link_or_copy
from build_engines.repository.names import ModelNames
from tritonforge.files import exchange
from tritonforge.server.repository import MANIFEST


@contextmanager
def staging_folder(repository: Path, name: str) -> Iterator[Path]:
    """A hidden folder in the repository, removed at the end whatever happens.

    It lies on the same file system as its target, so that publishing is a rename. Triton is told
    which models to load by name and never looks at it.
    """
    repository.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".staging-{name}-", dir=repository))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def published_key(repository: Path, name: str) -> str | None:
    """Content key of what is published.

    None unless the models that the ensemble's manifest lists are there and carry the same key, and no
    other model of the recipe is there.
    """
    manifest = _manifest(repository / name)
    listed, key = manifest.get("models"), manifest.get("key")
    there = _published_models(repository, name)
    keys = {_manifest(repository / model).get("key") for model in there}
    return key if isinstance(key, str) and listed == there and keys == {key} else None


def published_version(repository: Path, name: str) -> int:
    """Newest version of any of the models, 0 if none is there."""
    models = _published_models(repository, name)
    return max((version for model in models for version in _versions(repository / model)), default=0)


def publish(staging: Path, repository: Path, name: str) -> None:
    """Exchange the staged folders with the published ones, and take away what the new set does not have.

    The newest old version stays beside the new one (as hard links), since a backend process of a
    running server that has to start again looks for its files there; Triton loads the newest only.

    Raises:
        OSError: If a rename fails; models not yet exchanged are then as they were.
    """
    staged = [model for model in ModelNames(name).possible if (staging / model).is_dir()]
    for model in staged:
        old = repository / model
        if versions := _versions(old):
            kept = str(max(versions))
            shutil.copytree(
                old / kept,
                staging / model / kept,
                copy_function=lambda source, target: link_or_copy(Path(source), Path(target)),
                ignore=shutil.ignore_patterns("__pycache__"),
            )
    for model in staged:
        exchange(staging / model, repository / model)
    # Last: until the new ensemble is there, the old one needs it. Into the staging folder, which is removed.
    for model in _published_models(repository, name):
        if model not in staged:
            (repository / model).rename(staging / model)


def _published_models(repository: Path, name: str) -> list[str]:
    """Models of a recipe that are there.

    What only some engines need counts if the recipe made it: another recipe may bear that name.
    """
    names = ModelNames(name)
    return [
        model
        for model in names.possible
        if (repository / model).is_dir()
        and (model in names.all or _manifest(repository / model).get("recipe") == name)
    ]


def _versions(model: Path) -> list[int]:
    """Version folders of a model."""
    if not model.is_dir():
        return []
    return [int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdigit()]


def _manifest(model: Path) -> dict[str, Any]:
    """What the last build wrote into a model's folder; empty if it did not, or if it is damaged."""
    try:
        data = json.loads((model / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
