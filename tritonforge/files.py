"""Puts a file or a folder in the place of another, so that no reader sees neither or half of one."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def exchange(new: Path, target: Path) -> None:
    """Swap two folders in one system call; a plain rename where the target is not there yet.

    Args:
        new: Takes the target's place; afterwards it is the old target, if there was one.
        target: On the same file system.

    Raises:
        OSError: If a rename fails; both are then as they were.
    """
    if not target.exists():
        new.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(new), _AT_FDCWD, bytes(target), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(target))
    # A file system without exchange: two renames, undone if the second fails.
    aside = new.with_name(f"{new.name}.old")
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write beside the target, then rename.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
