"""What an archive says of itself, in its first entry: every file with its size and digest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from tritonforge.errors import RepositoryError, UsageError

MANIFEST_NAME = "tritonforge-pack.json"
FORMAT = 1


_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_digest(text: str) -> None:
    """Refuse what cannot be an archive's digest.

    Raises:
        UsageError: It is no SHA-256 in hex.
    """
    if not _SHA256.fullmatch(text):
        raise UsageError(
            f"is not a SHA-256 in hex: {text!r}",
            where="--sha256",
            mend="give the 64 lower-case digits that `tritonforge pack` prints",
        )


class PackError(RepositoryError):
    """A repository could not be packed, or an archive could not be fetched or is not what it should be."""


@dataclass(frozen=True)
class PackedFile:
    """One file.

    Attributes:
        path: In the repository, parts joined by slashes; the first part is the model.
        size: Bytes.
        sha256: Of its content.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PackManifest:
    """What an archive holds.

    Attributes:
        models: In the order in which they are put in place: parts first, who calls them after.
        folders: Those without a file, as an ensemble's versions are.
        files: In the order of the archive.
    """

    models: tuple[str, ...]
    folders: tuple[str, ...]
    files: tuple[PackedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """As :meth:`parse` reads it."""
        return {
            "format": FORMAT,
            "models": list(self.models),
            "folders": list(self.folders),
            "files": [asdict(file) for file in self.files],
        }

    def encode(self) -> bytes:
        """The first entry's content; the same for the same files."""
        return (json.dumps(self.as_dict(), indent=1) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes, where: str) -> PackManifest:
        """Read a first entry.

        Raises:
            PackError: It is damaged, of another format, or names a path outside the repository.
        """
        try:
            return cls.parse(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise PackError(
                f"the archive's {MANIFEST_NAME} cannot be used: {error}",
                where=where,
                mend="pack the repository again: tritonforge pack",
            ) from error

    @classmethod
    def parse(cls, data: Any) -> PackManifest:
        """Check and read what :meth:`as_dict` gave.

        Raises:
            ValueError: A value is not allowed.
            KeyError: A key is missing.
            TypeError: A value is of another kind.
        """
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}, and this tritonforge reads {FORMAT}")
        models = tuple(str(model) for model in data["models"])
        folders = tuple(str(folder) for folder in data["folders"])
        files = tuple(
            PackedFile(str(file["path"]), int(file["size"]), str(file["sha256"])) for file in data["files"]
        )
        if len(set(models)) != len(models) or not models:
            raise ValueError("its list of models is empty, or names one twice")
        paths = [*folders, *(file.path for file in files)]
        if len(set(paths)) != len(paths):
            raise ValueError("it names a path twice")
        _check_paths(paths, set(models))
        return cls(models, folders, files)


def _check_paths(paths: Iterable[str], models: set[str]) -> None:
    """Every file lies in a model's folder, and a model is a plain folder of the repository."""
    for path in [*paths, *(f"{model}/config.pbtxt" for model in models)]:
        parts = PurePosixPath(path).parts
        plain = str(PurePosixPath(path)) == path and not any(part == ".." for part in parts)
        if not plain or "\0" in path or len(parts) < 2 or parts[0] not in models or parts[0].startswith("."):
            raise ValueError(f"a path lies outside its models: {path!r}")
