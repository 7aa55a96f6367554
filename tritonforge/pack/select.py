"""Which models and which of their files go into an archive."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tritonforge.pack.manifest import PackError
from tritonforge.server.repository import MANIFEST, find_models, steps_of

_POLICY = re.compile(r"version_policy\s*:?\s*\{\s*(all|specific|latest)[^0-9}]*(\d+)?")


def select_models(repository: Path, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the wanted models and of all that they call, parts first.

    Args:
        repository: The model repository.
        wanted: Names; empty: all that are there.

    Raises:
        RepositoryError: A model, or a part of one, is missing, or two are of different builds.
    """
    order: dict[str, None] = {}
    for model in find_models(repository, wanted):
        _visit(repository, model, order, ())
    for model in order:
        _check_build(repository, model)
    return tuple(order)


def paths_of(repository: Path, model: str) -> list[Path]:
    """Files of a model that a server reads, and its empty folders, sorted.

    Versions that Triton would not load stay out: a build keeps the one before beside it for running servers.
    An ensemble's version is an empty folder.
    """
    folder = repository / model
    config = (folder / "config.pbtxt").read_text(encoding="utf-8")
    versions = {int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()}
    old = {str(version) for version in versions - _loaded(config, versions)}
    return sorted(path for path in _walk(folder) if path.relative_to(folder).parts[0] not in old)


def _loaded(config: str, versions: set[int]) -> set[int]:
    """Versions that a policy may load: the newest, if there is none."""
    policy = _POLICY.search(config)
    if policy and policy[1] != "latest":
        return versions
    return set(sorted(versions)[-int((policy and policy[2]) or 1) :])


def _walk(folder: Path) -> Iterator[Path]:
    """Every file and empty folder below a folder but hidden ones; links are followed to files only."""
    found = [
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__pycache__"
    ]
    if not found:
        yield folder
    for path in found:
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        elif path.is_file():
            yield path
        else:
            raise PackError("is neither a file nor a folder", where=str(path), mend="take it out")


def _visit(repository: Path, model: str, order: dict[str, None], callers: tuple[str, ...]) -> None:
    """Add a model after its parts."""
    if model in order or model in callers:
        return
    if not (repository / model / "config.pbtxt").is_file():
        raise PackError(
            f"{callers[-1]} calls the model {model}, which is not there",
            where=str(repository),
            mend=f"build {callers[-1]} again",
        )
    for part in _parts(repository, model):
        _visit(repository, part, order, (*callers, model))
    order[model] = None


def _parts(repository: Path, model: str) -> list[str]:
    """What a model calls: an ensemble's steps, and what a build lists beside a recipe's front model."""
    steps = steps_of((repository / model / "config.pbtxt").read_text(encoding="utf-8"))
    manifest = _manifest(repository, model)
    listed = [str(name) for name in manifest.get("models", ())] if manifest.get("recipe") == model else []
    return [*steps, *(name for name in listed if name != model)]


def _check_build(repository: Path, model: str) -> None:
    """Refuse a publication that was cut off: its models carry different keys."""
    manifest = _manifest(repository, model)
    for other in manifest.get("models", ()):
        if _manifest(repository, str(other)).get("key") != manifest.get("key"):
            raise PackError(
                f"{model} and {other} are of different builds",
                where=str(repository),
                mend=f"complete the publication: tritonforge build the recipe of {manifest.get('recipe')}",
            )


def _manifest(repository: Path, model: str) -> dict[str, Any]:
    """What the build wrote; empty for a model that was not built by tritonforge."""
    path = repository / model / MANIFEST
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PackError(f"is damaged: {error}", where=str(path), mend="build the model again") from error
    return data if isinstance(data, dict) else {}
