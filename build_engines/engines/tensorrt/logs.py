"""What TensorRT says while it parses and builds.

Many failures have no other voice: ``build_serialized_network`` answers None and the reason is a message.
And a process has one logger: while any builder or runtime lives, a second one is ignored. So there is one
for each module, for the life of the process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

_KEPT = 20_000
_made: dict[str, Any] = {}
_lock = threading.Lock()


class Message(NamedTuple):
    """One message.

    Attributes:
        severity: ``INTERNAL_ERROR``, ``ERROR``, ``WARNING``, ``INFO`` or ``VERBOSE``.
        text: As TensorRT wrote it.
    """

    severity: str
    text: str


class BuildLog:
    """Messages of one build, the newest where there are too many."""

    def __init__(self) -> None:
        """Begin empty."""
        self.messages: deque[Message] = deque(maxlen=_KEPT)

    def add(self, severity: str, text: str) -> None:
        """Keep a message."""
        self.messages.append(Message(severity, text))

    def errors(self) -> list[str]:
        """Distinct errors, oldest first."""
        texts = (m.text.strip() for m in self.messages if m.severity in {"ERROR", "INTERNAL_ERROR"})
        return list(dict.fromkeys(texts))

    def text(self) -> str:
        """The whole log, a line a message."""
        return "".join(f"[{m.severity}] {m.text.rstrip()}\n" for m in self.messages)


@contextmanager
def recorded(trt: ModuleType) -> Iterator[tuple[Any, BuildLog]]:
    """Give the process's logger of a module, and the log that its messages go to meanwhile.

    Builds of several threads wait for one another.
    """
    with _lock:
        if trt.__name__ not in _made:
            _made[trt.__name__] = _logger(trt)
        logger, log = _made[trt.__name__], BuildLog()
        logger.sink = log
        try:
            yield logger, log
        finally:
            logger.sink = None


def _logger(trt: ModuleType) -> Any:
    """A logger of the module's own base class, so it cannot be a class of this file."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]  # known at run time only
        """Hands messages on."""

        sink: BuildLog | None = None

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if self.sink is not None:
                self.sink.add(severity.name, text)

    return Logger()
