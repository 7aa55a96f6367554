"""Files that others read while they are written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Put a file in place at once, on the disk, readable by its owner alone.

    Whoever reads it meanwhile has the old content or the new, never a part; on a fault the old one stays.

    Raises:
        OSError: It cannot be written.
    """
    # Made with mode 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
