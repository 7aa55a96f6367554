"""tritonserver's output: passed on, its tail kept for error messages."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from tritonforge.server.json_logs import JsonLines

_ERROR = re.compile(r'^E\d{4} .*?\] "?(?P<message>.*)')
# Written at level E by every start on a machine without a GPU.
_HARMLESS = ("CudaDriverHelper", "unable to create stream", "NVML")


class LogPump:
    """Copies a process's output to a sink in a thread, and keeps the last lines.

    Args:
        source: The process's output; read to its end, then closed.
        sink: Where it goes.
        keep: Lines to keep.
        lines: Makes JSON of it; None: every byte passes unchanged.
    """

    def __init__(
        self, source: BinaryIO, sink: BinaryIO, *, keep: int = 400, lines: JsonLines | None = None
    ) -> None:
        """Start copying."""
        self._source = source
        self._sink = sink
        self._lines = lines
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
                text = line.decode("utf-8", "replace").rstrip("\n")
                self._tail.append(text)
                self._write(line if self._lines is None else _joined(self._lines(text)))
            if self._lines is not None:
                self._write(_joined(self._lines.end()))

    def _write(self, data: bytes) -> None:
        # A sink that went away (closed terminal, full disk) must not block the server's pipe.
        with contextlib.suppress(OSError, ValueError):
            self._sink.write(data)
            self._sink.flush()


def _joined(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


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
