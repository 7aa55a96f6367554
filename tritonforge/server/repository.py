"""Which folders of a model repository are models, and what lies in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tritonforge.errors import RepositoryError

MANIFEST = "tritonforge.json"
"""In each folder that a build published: what was built from what."""

_CACHE_ENABLED = re.compile(r"response_cache\s*:?\s*\{[^}]*enable\s*:\s*true")
_STEP = re.compile(r'model_name\s*:\s*"([^"]+)"')
_MEND = "tritonforge build recipes/minilm.yaml"


def find_models(repository: Path, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """List the models to load.

    A model is a folder with a ``config.pbtxt`` whose name does not start with a dot (those are
    builds that have not been published).

    Args:
        repository: The model repository.
        wanted: Names to load; empty: all.

    Returns:
        Model names, sorted.

    Raises:
        RepositoryError: The repository is missing or empty, or does not hold a wanted model.
    """
    if not repository.is_dir():
        raise RepositoryError("the model repository does not exist", where=str(repository), mend=_MEND)
    models = tuple(
        sorted(
            folder.name
            for folder in repository.iterdir()
            if not folder.name.startswith(".") and (folder / "config.pbtxt").is_file()
        )
    )
    if not models:
        raise RepositoryError("the model repository holds no model", where=str(repository), mend=_MEND)
    missing = sorted(set(wanted) - set(models))
    if missing:
        raise RepositoryError(
            f"the model repository holds no model named {', '.join(missing)}",
            where=str(repository),
            mend=f"choose from: {', '.join(models)}",
        )
    return tuple(sorted(set(wanted))) if wanted else models


def wants_response_cache(repository: Path, models: Iterable[str]) -> bool:
    """Say whether the configuration of one of ``models``, or of a part of it, enables the response cache."""
    wanted, seen = list(models), set[str]()
    while wanted:
        path = repository / (model := wanted.pop()) / "config.pbtxt"
        if model in seen or not path.is_file():  # a missing part is Triton's to complain of
            continue
        seen.add(model)
        text = path.read_text(encoding="utf-8")
        if _CACHE_ENABLED.search(text):
            return True
        wanted += steps_of(text)
    return False


def steps_of(config: str) -> list[str]:
    """Models that an ensemble's ``config.pbtxt`` calls; none for another model."""
    return _STEP.findall(config)
