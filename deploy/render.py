"""Writes what a target renders into a folder: all of it or nothing, and over nothing that is not its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path, PurePosixPath

from deploy.deployment import Deployment
from tritonforge.errors import TritonForgeError, UsageError
from tritonforge.files import exchange

# What was rendered, so that a second run knows its own files, and those that someone has edited since.
RECORD = ".tritonforge-deploy.json"
# The user's own: a script beside a compose file makes it, and it outlives every rendering.
KEPT = "secrets"


class DeployError(TritonForgeError):
    """A deployment could not be rendered or written."""


def _by_name(target: str, deployment: Deployment) -> dict[str, str]:
    """Import a target when it is asked for: one of them loads a chart, another a template."""
    files: dict[str, str] = import_module(f"deploy.targets.{target}").render(deployment)
    return files


TARGETS: Mapping[str, Callable[[Deployment], dict[str, str]]] = {
    name: partial(_by_name, name) for name in ("compose", "ecs", "helm", "kserve")
}


def render(target: str, deployment: Deployment, output: Path) -> list[Path]:
    """Render a deployment into a folder.

    The files are written beside it and exchanged at once, so a reader sees the old ones or the new ones.

    Args:
        target: A key of :data:`TARGETS`.
        deployment: What to render.
        output: A new folder, an empty one, or one that an earlier call wrote.

    Returns:
        The files, sorted; the record is not among them.

    Raises:
        UsageError: The target is unknown, or the folder holds files that are not rendered ones.
        DeployError: The folder cannot be written.
    """
    if target not in TARGETS:
        raise UsageError(f"no such target: {target!r}", where="--target", mend=f"use {', '.join(TARGETS)}")
    files = TARGETS[target](deployment)
    record = {
        "target": target,
        "name": deployment.name,
        "version": deployment.version,
        "files": {path: _digest(text) for path, text in sorted(files.items())},
    }
    output = output.absolute()
    _refuse_foreign(output)
    try:
        _write({**files, RECORD: json.dumps(record, indent=2) + "\n"}, output)
    except OSError as error:
        raise DeployError(
            f"cannot be written: {error.strerror or error}",
            where=str(output),
            mend="give a folder that this user may write, on a disk with room",
        ) from error
    return [output / path for path in sorted(files)]


def _refuse_foreign(output: Path) -> None:
    """Leave alone what an earlier call did not write, or someone has changed since."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UsageError("is not a folder", where=str(output), mend="give another --output")
    if not output.exists():
        return
    here = Path.cwd()
    if output.resolve() in (here, *here.parents):
        raise UsageError(
            "is exchanged as a whole, so it cannot be the current folder or one above it",
            where=str(output),
            mend="give a folder below it as --output",
        )
    files = (path for path in output.rglob("*") if path.is_symlink() or path.is_file())
    present = {path.relative_to(output).as_posix() for path in files}
    known = _recorded(output / RECORD)
    foreign = sorted(
        name for name in present - {RECORD} - known.keys() if PurePosixPath(name).parts[0] != KEPT
    )
    if foreign:
        raise UsageError(
            f"holds files that were not rendered: {_some(foreign)}",
            where=str(output),
            mend="give an empty or new folder as --output",
        )
    edited = sorted(
        path
        for path, digest in known.items()
        if path in present and hashlib.sha256((output / path).read_bytes()).hexdigest() != digest
    )
    if edited:
        raise UsageError(
            f"holds rendered files that were changed by hand: {_some(edited)}",
            where=str(output),
            mend="keep the changes elsewhere (a kustomize overlay, a values file), and give another --output",
        )


def _recorded(path: Path) -> dict[str, str]:
    """Digests of the files of the last call; none where there was none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"is damaged: {error}", where=str(path), mend="give an empty or new folder as --output"
        ) from error


def _write(files: Mapping[str, str], output: Path) -> None:
    """Write beside the folder, then exchange."""
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        fresh = staging / "new"
        fresh.mkdir()
        for relative, text in files.items():
            path = fresh / PurePosixPath(relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        if (output / KEPT).is_dir():
            (output / KEPT).rename(fresh / KEPT)
        try:
            exchange(fresh, output)
        except OSError:
            if (fresh / KEPT).is_dir():
                (fresh / KEPT).rename(output / KEPT)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _some(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
