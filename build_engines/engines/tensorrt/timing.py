"""Keeps TensorRT's timing cache: what was measured once is not measured again by the next build."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt


class TimingCacheFile:
    """A cache file for one version of TensorRT and one GPU, shared by builds.

    A cache of another version or device is refused by TensorRT, so each pair has a file of its own.

    Args:
        folder: Where the files lie.
        version: Of TensorRT.
        gpu: Name of the GPU, or of the compute capabilities that are built for.
    """

    def __init__(self, folder: Path, version: str, gpu: str) -> None:
        """Name the file."""
        self.path = folder / f"timing-{version}-{re.sub(r'[^A-Za-z0-9.]+', '-', gpu)}.cache"

    def attach(self, config: tensorrt.IBuilderConfig) -> None:
        """Give what is there to a build; a file that TensorRT refuses counts as empty."""
        for data in (self._read(), b""):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, False):
                return

    def merge(self, config: tensorrt.IBuilderConfig) -> int:
        """Add what a build measured to the file, which another build may have added to meanwhile.

        Returns:
            Bytes in the file now; 0 if the build has no cache.
        """
        measured = config.get_timing_cache()
        if measured is None:
            return 0
        with self._locked():
            there = config.create_timing_cache(self._read())
            if there is not None:
                measured.combine(there, False)
            serialized: Any = measured.serialize()  # a buffer, which its signature does not say
            data = bytes(serialized)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_bytes(data)
            temporary.replace(self.path)
        return len(data)

    def _read(self) -> bytes:
        return self.path.read_bytes() if self.path.is_file() else b""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the file's lock against other processes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing releases it
