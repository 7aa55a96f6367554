"""A content-addressed store of build artefacts: what was made once from the same inputs is not made again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tritonforge.errors import BuildError


def content_key(**parts: Any) -> str:
    """Hash of everything that decides an artefact, 16 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def build_lock(artifacts: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Let one build at a time work on a folder of artefacts: they would remove each other's.

    Args:
        artifacts: The folder, made if it is not there.
        waiting: Called with a line for the user if another build holds it.

    Raises:
        BuildError: If the folder cannot be written.
    """
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        file = (artifacts / ".lock").open("w")
    except OSError as error:
        raise disk_error(error, artifacts) from error
    with file:  # closing it lets go of the lock, and so does the end of the process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting(f"waiting for another build in {artifacts}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class ArtifactStore:
    """Folders by kind and key, each complete or absent.

    Args:
        root: Where they lie; made when first needed.
    """

    def __init__(self, root: Path) -> None:
        """Remember the place."""
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where an artefact lies or would lie."""
        return self.root / f"{kind}-{key}"

    def get_or_make(
        self, kind: str, key: str, make: Callable[[Path], None], *, again: bool = False
    ) -> tuple[Path, bool]:
        """Give the artefact's folder, made by ``make`` if it is not there.

        ``make`` fills a temporary folder that is renamed once it returns, so that a build that dies
        leaves nothing half made behind. Older artefacts of the same kind are removed.

        Args:
            kind: ``export``, ``compile-openvino-fp32`` and so on.
            key: From :func:`content_key`.
            make: Fills the folder it is given.
            again: Make it even if it is there.

        Returns:
            The folder, and whether it was there already.

        Raises:
            BuildError: If the disk is full or not writable.
        """
        target = self.folder(kind, key)
        if target.is_dir() and not again:
            return target, True
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=self.root))
        except OSError as error:
            raise disk_error(error, self.root) from error
        try:
            make(temporary)
            temporary.chmod(0o755)
            for old in self.root.glob(f"{kind}-{'[0-9a-f]' * 16}"):
                shutil.rmtree(old)
            temporary.replace(target)
        except OSError as error:
            raise disk_error(error, self.root) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target, False


def disk_error(error: OSError, where: Path) -> BuildError:
    """Say what an operating system error means for a build."""
    return BuildError(
        f"cannot write: {error.strerror or error}",
        where=str(error.filename or where),
        mend="free disk space or mend permissions, then build again: nothing was left half written",
    )
