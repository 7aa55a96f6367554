"""Packs a model repository: plain tar, the same bytes for the same files."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tritonforge.pack.manifest import MANIFEST_NAME, PackedFile, PackError, PackManifest
from tritonforge.pack.select import paths_of, select_models


@dataclass(frozen=True)
class Packed:
    """An archive that was written.

    Attributes:
        path: The file; beside it lies ``FILE.sha256``, as ``sha256sum --check`` reads it.
        sha256: Of the archive, what ``tritonforge fetch`` verifies.
        size: Bytes.
        models: What it holds.
    """

    path: Path
    sha256: str
    size: int
    models: tuple[str, ...]


class _Digesting(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, target: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._target = target

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # tarfile writes bytes only
        self.digest.update(data)
        return self._target.write(data)


def pack(repository: Path, output: Path, models: Sequence[str] = ()) -> Packed:
    """Write models, and all that they call, into an archive.

    Weights hardly compress, so the archive is not compressed: it is read at the disk's speed, and may be
    fetched in ranges. Owners, times and modes are constants, so its digest depends on the files alone.

    Args:
        repository: The model repository.
        output: The archive; put in place when it is complete.
        models: Names; empty: all.

    Raises:
        RepositoryError: A model is missing or incomplete, or the archive cannot be written.
    """
    selected = select_models(repository, models)
    paths = [path for model in selected for path in paths_of(repository, model)]
    manifest = PackManifest(
        selected,
        tuple(path.relative_to(repository).as_posix() for path in paths if path.is_dir()),
        tuple(_describe(repository, path) for path in paths if not path.is_dir()),
    )
    PackManifest.parse(manifest.as_dict())  # what fetch would refuse must not be written
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        size, digest = _replace(repository, manifest, output)
        output.with_name(f"{output.name}.sha256").write_text(f"{digest}  {output.name}\n", encoding="utf-8")
    except OSError as error:
        raise PackError(
            f"the archive cannot be written: {error.strerror or error}",
            where=str(output),
            mend="give an --output on a disk with room, in a folder that this user may write",
        ) from error
    return Packed(output, digest, size, selected)


def _replace(repository: Path, manifest: PackManifest, output: Path) -> tuple[int, str]:
    """Write beside the target, then rename; returns size and digest."""
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as target:
            digest = _write(repository, manifest, target)
        temporary.chmod(0o644)
        size = temporary.stat().st_size
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return size, digest


def _describe(repository: Path, path: Path) -> PackedFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return PackedFile(path.relative_to(repository).as_posix(), path.stat().st_size, digest)


def _write(repository: Path, manifest: PackManifest, target: BinaryIO) -> str:
    """Write the tar; returns its digest."""
    digesting = _Digesting(target)
    # A stream: nothing is sought back, so what was hashed is what lies there.
    with tarfile.open(fileobj=digesting, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        content = manifest.encode()
        archive.addfile(_entry(MANIFEST_NAME, len(content)), io.BytesIO(content))
        for folder in manifest.folders:
            entry = _entry(folder, 0)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for file in manifest.files:
            path = repository / file.path
            with path.open("rb") as stream:
                archive.addfile(_entry(file.path, file.size), stream)
                changed = bool(stream.read(1)) or _describe(repository, path) != file
            if changed:
                raise PackError("changed while it was packed", where=str(path), mend="pack again")
    return digesting.digest.hexdigest()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry
