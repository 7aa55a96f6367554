"""Fetches a packed repository, verifies it, and puts its models in place."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonforge.errors import UsageError
from tritonforge.files import exchange, replace_text
from tritonforge.pack.manifest import PackedFile, PackError, PackManifest, check_digest
from tritonforge.pack.source import read, scheme_of, shown
from tritonforge.pack.unpack import unpack

# Beside the models, hidden from Triton: what was fetched; who is at it; what is coming in.
STATE = ".tritonforge-fetch.json"
_LOCK = ".tritonforge-fetch.lock"
_STAGING = ".tritonforge-fetch-"


@dataclass(frozen=True)
class Fetched:
    """What is in place now.

    Attributes:
        source: Without signature or user.
        into: The model repository.
        sha256: Of the archive.
        models: In place.
        size: Bytes of their files.
        changed: False if all of it lay there already, and was verified.
    """

    source: str
    into: Path
    sha256: str
    models: tuple[str, ...]
    size: int
    changed: bool


def fetch(
    source: str, into: Path, sha256: str | None = None, progress: Callable[[int], None] = lambda _: None
) -> Fetched:
    """Put the models of an archive into a folder.

    Nothing of it can be seen before all of it was verified. Then each model takes its place in one system
    call, parts before those that call them. A run that is cut off leaves whole models only, and the next
    one completes it.

    Args:
        source: A file, or a URL with https, http, s3, gs or az.
        into: Folder that holds nothing but what earlier calls put there. It may be a mount.
        sha256: Of the archive. With it, what lies there already is verified and not fetched again.
        progress: Told the bytes that came in.

    Raises:
        UsageError: The source or the digest is none, or plain HTTP comes without a digest.
        PackError: The archive could not be read, is damaged or another one, or the folder holds other models.
    """
    _check(source, sha256)
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _alone(into):
            manifest = _in_place(into, sha256)
            if manifest is not None and sha256 is not None:
                return Fetched(shown(source), into, sha256, manifest.models, manifest.size, changed=False)
            manifest, digest = _replace(source, into, sha256, progress)
    except OSError as error:
        raise PackError(
            f"cannot be written: {error.strerror or error}",
            where=error.filename if isinstance(error.filename, str) else str(into),
            mend="give a folder with room that this user may write",
        ) from error
    return Fetched(shown(source), into, digest, manifest.models, manifest.size, changed=True)


def _check(source: str, sha256: str | None) -> None:
    """Refuse what cannot be right before anything is read."""
    if sha256 is not None:
        check_digest(sha256)
    if scheme_of(source) == "http" and sha256 is None:
        raise UsageError(
            "plain HTTP can be changed on its way, and models run code",
            where=shown(source),
            mend="use https://, or say what must come: --sha256",
        )


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """One fetch into a folder at a time, of whatever process; what a killed one left is removed."""
    with (into / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in into.glob(f"{_STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _in_place(into: Path, sha256: str | None) -> PackManifest | None:
    """What lies there, if it is whole and of the wanted archive: every byte of it is read."""
    state = _state(into)
    if sha256 is None or state.get("sha256") != sha256:
        return None
    try:
        manifest = PackManifest.parse(state["manifest"])
    except (ValueError, KeyError, TypeError):
        return None
    there = {
        path.relative_to(into).as_posix()
        for model in manifest.models
        for path in (into / model).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted = {file.path for file in manifest.files}
    folders = all((into / folder).is_dir() for folder in manifest.folders)
    whole = folders and there == wanted and all(_is_whole(into, file) for file in manifest.files)
    return manifest if whole else None


def _is_whole(into: Path, file: PackedFile) -> bool:
    path = into / file.path
    if path.is_symlink() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _replace(
    source: str, into: Path, sha256: str | None, progress: Callable[[int], None]
) -> tuple[PackManifest, str]:
    """Unpack into a hidden folder, verify, and put in place."""
    old = {str(model) for model in _state(into).get("models", ())}
    _refuse_others(into, old)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=into))
    try:
        manifest, digest = unpack(read(source), staging, shown(source), progress)
        if sha256 is not None and digest != sha256:
            raise PackError(
                f"the archive is another one: its SHA-256 is {digest}, and {sha256} was wanted",
                where=shown(source),
                mend="give the digest that `tritonforge pack` printed for it, or the archive's right address",
            )
        # Before the first model moves: should this be cut off, the next call knows which are ours.
        _write_state(into, {"sha256": None, "models": sorted(old | set(manifest.models))})
        for model in manifest.models:
            (staging / model).chmod(0o755)
            exchange(staging / model, into / model)
        for model in sorted(old - set(manifest.models)):
            if (into / model).exists():
                (into / model).rename(staging / model)
        state = {"source": shown(source), "sha256": digest, "models": list(manifest.models)}
        _write_state(into, {**state, "manifest": manifest.as_dict()})
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest, digest


def _refuse_others(into: Path, ours: set[str]) -> None:
    """The server loads all that lies there, so it must all be of this archive."""
    others = sorted({path.parent.name for path in into.glob("[!.]*/config.pbtxt")} - ours)
    if others:
        raise PackError(
            f"holds models that were not fetched: {', '.join(others)}",
            where=str(into),
            mend="give an empty folder; several models come in one archive: tritonforge pack MODEL MODEL",
        )


def _state(into: Path) -> dict[str, Any]:
    """What the last call left; empty if there was none, or it cannot be read."""
    try:
        state = json.loads((into / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(into: Path, state: dict[str, Any]) -> None:
    replace_text(into / STATE, json.dumps(state, indent=1) + "\n")
