"""tritonserver's output: passed through unchanged, its tail kept for error messages."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Sequence
from typing import BinaryIO

_ERROR = re.compile(r'^E\d{4} .*?\] "?(?P<message>.*)')
# Written at level E by every start on a machine without a GPU.
_HARMLESS = ("CudaDriverHelper", "unable to create stream", "NVML")


class LogPump:
    """Copies a process's output to a sink in a thread, and keeps the last lines.

    Args:
        source: The process's output; read to its end, then closed.
        sink: Where every byte goes, unchanged.
        keep: Lines to keep.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO, *, keep: int = 400) -> None:
        """Start copying."""
        self._source = source
        self._sink = sink
        self._tail: deque[str] = deque(maxlen=keep)
        self._thread = threading.Thread(target=self._run, name="tritonserver-log", daemon=True)
        self._thread.start()

    def tail(self) -> list[str]:
        """Return the last lines, oldest first."""
        return list(self._tail)

    def join(self, timeout: float) -> None:
        """Wait, for ``timeout`` seconds at most, until the output has ended."""
        self._thread.join(timeout)

    def _run(self) -> None:
        with self._source:
            for line in self._source:
                self._tail.append(line.decode("utf-8", "replace").rstrip("\n"))
                try:
                    self._sink.write(line)
                    self._sink.flush()
                except (OSError, ValueError):
                    # A sink that went away (closed terminal, full disk) must not block the server's pipe.
                    continue


def decisive_lines(lines: Sequence[str], *, limit: int = 12) -> list[str]:
    """Pick what made a start fail: the models that failed to load and why, else the last errors.

    Args:
        lines: Output of tritonserver, oldest first.
        limit: Lines to return at most.

    Returns:
        Messages without their log prefix, a model's failure with the frame that raised it; the last
        lines as they are if none is an error.
    """
    failures: list[str] = []
    errors: list[str] = []
    for line in lines:
        match = _ERROR.match(line)
        if match is None or any(word in line for word in _HARMLESS):
            continue
        # Triton escapes the line ends of a message; a Python traceback follows as "At:" and its frames.
        message, *more = match["message"].removesuffix('"').replace("\\n", "\n").splitlines()
        frames = [frame.strip() for frame in more if "(" in frame]
        text = f"{message} (at {frames[0]})" if frames else message
        (failures if message.startswith("failed to load") else errors).append(text)
    return failures[:limit] or errors[-limit:] or list(lines)[-limit:]
