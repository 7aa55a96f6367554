"""A file whose content is read again when it has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

logger = structlog.get_logger(__name__)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """Keeps what a file says; asking costs one ``stat`` while nothing has changed.

    A file that is gone says what an empty one says. A file that is there but cannot be read, or is broken,
    changes nothing: what it said last stays in force, or nothing where it was never good.

    Args:
        path: The file.
        parse: Reads its bytes; raises ``ValueError`` where they are broken.
        empty: What holds while there is no good content.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], empty: T) -> None:
        """Read nothing yet."""
        self.path = path
        self._parse = parse
        self._empty = empty
        self._value = empty
        self._seen: tuple[int, int, int] | str | None = None

    @property
    def value(self) -> T:
        """What the file says now."""
        try:
            stat = self.path.stat()
            seen: tuple[int, int, int] | str = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            seen = "missing"
        except OSError as error:
            seen = error.strerror or type(error).__name__
        if seen != self._seen:
            self._seen = seen
            self._read(seen)
        return self._value

    def _read(self, seen: tuple[int, int, int] | str) -> None:
        """Take the new content; what is wrong is told once for each change."""
        if seen == "missing":
            self._value = self._empty
            logger.error("file_missing", path=str(self.path), effect="as if it were empty")
            return
        try:
            self._value = self._parse(self.path.read_bytes())
        except (OSError, ValueError) as error:
            # The message of a parser may quote the file; its class and place say enough.
            logger.error(
                "file_broken",
                path=str(self.path),
                reason=error.strerror if isinstance(error, OSError) else type(error).__name__,
                effect="what it said before stays in force",
            )
        else:
            logger.info("file_read", path=str(self.path))
