"""Unpacks an archive as it comes in, and believes nothing of it before it was compared."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tritonforge.pack.manifest import MANIFEST_NAME, PackedFile, PackError, PackManifest

_CHUNK = 1 << 20
_MOST_MANIFEST = 64 << 20  # bytes: some 300,000 files


class _Incoming:
    """A file for tarfile, over chunks; hashes all that comes in."""

    def __init__(self, chunks: Iterator[bytes], progress: Callable[[int], None]) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self._chunks = chunks
        self._progress = progress
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At least a byte, and ``size`` at most; none at the end."""
        if not self._left:
            chunk = next(self._chunks, b"")
            self.digest.update(chunk)
            self.size += len(chunk)
            self._progress(self.size)
            self._left = memoryview(chunk)
        taken, self._left = self._left[:size], self._left[size:]
        return bytes(taken)


def unpack(
    chunks: Iterator[bytes], folder: Path, where: str, progress: Callable[[int], None]
) -> tuple[PackManifest, str]:
    """Write the files of an archive into an empty folder.

    Only plain files that the archive's manifest lists are written, with modes of our own; each must have the
    size and the digest that it says.

    Args:
        chunks: The archive.
        folder: Gets a folder a model.
        where: Names the archive in errors.
        progress: Told the bytes that came in.

    Returns:
        The manifest, and the archive's SHA-256.

    Raises:
        PackError: The archive is damaged or is not one, or the disk is too small.
        OSError: A file cannot be written.
    """
    incoming = _Incoming(chunks, progress)
    try:
        # A stream needs read() only.
        with tarfile.open(fileobj=incoming, mode="r|", bufsize=_CHUNK) as archive:  # type: ignore[call-overload]
            manifest = _read_manifest(archive, where)
            _check_room(manifest, folder, where)
            wanted = {file.path: file for file in manifest.files}
            for path in manifest.folders:
                (folder / path).mkdir(parents=True)
            while (entry := archive.next()) is not None:  # iterating would begin anew
                if entry.isdir() and entry.name in manifest.folders:
                    continue
                file = wanted.pop(entry.name, None)
                content = archive.extractfile(entry) if entry.isreg() else None
                if file is None or content is None:
                    raise PackError(
                        f"the archive holds {entry.name!r}, which its manifest does not list as a file",
                        where=where,
                        mend="pack the repository again: tritonforge pack",
                    )
                _write(content, file, folder / file.path, where)
            if wanted:
                raise _cut_off(where, f"{len(wanted)} files are missing, {min(wanted)} among them")
    except (tarfile.TarError, EOFError) as error:
        raise _cut_off(where, str(error)) from error
    while incoming.read(_CHUNK):
        pass  # what follows the end is part of the digest
    return manifest, incoming.digest.hexdigest()


def _read_manifest(archive: tarfile.TarFile, where: str) -> PackManifest:
    """The first entry."""
    entry = archive.next()
    content = archive.extractfile(entry) if entry is not None and entry.isreg() else None
    if entry is None or content is None or entry.name != MANIFEST_NAME or entry.size > _MOST_MANIFEST:
        raise PackError(
            f"is not an archive of `tritonforge pack`: it does not begin with {MANIFEST_NAME}",
            where=where,
            mend="tritonforge pack --output FILE.tar, and fetch that",
        )
    return PackManifest.decode(content.read(), where)


def _check_room(manifest: PackManifest, folder: Path, where: str) -> None:
    free = shutil.disk_usage(folder).free
    if manifest.size > free:
        raise PackError(
            f"the models take {manifest.size >> 20} MiB, and {folder.parent} has {free >> 20} MiB free",
            where=where,
            mend="give a larger volume; the old models stay until the new ones are complete",
        )


def _write(content: IO[bytes], file: PackedFile, path: Path, where: str) -> None:
    """Write one file, and compare it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as target:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            target.write(chunk)
    path.chmod(0o644)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise PackError(
            f"{file.path} is not what the archive's manifest says ({size} bytes, {digest.hexdigest()})",
            where=where,
            mend="the archive is damaged: copy it again, or pack again",
        )


def _cut_off(where: str, why: str) -> PackError:
    return PackError(
        f"the archive is damaged or cut off: {why}",
        where=where,
        mend="copy it again; `sha256sum --check FILE.tar.sha256` tells whether the copy is whole",
    )
