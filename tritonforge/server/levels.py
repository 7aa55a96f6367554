"""Our own log level follows Triton's, so that one switch, ``POST /v2/logging``, is for both."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

_INTERVAL_S = 2.0
_OURS = logging.getLogger("tritonforge")


def level_of(settings: Mapping[str, Any]) -> int:
    """The level that Triton's settings come to.

    Args:
        settings: Answer of ``GET /v2/logging``.
    """
    if settings["log_verbose_level"] > 0:
        return logging.DEBUG
    for key, level in (("log_info", logging.INFO), ("log_warning", logging.WARNING)):
        if settings[key]:
            return level
    return logging.ERROR if settings["log_error"] else logging.CRITICAL


class LevelFollower:
    """Sets the level of the logger ``tritonforge`` to Triton's, as a context manager.

    Args:
        base_url: Triton's HTTP endpoint.
    """

    def __init__(self, base_url: str) -> None:
        """Look at once when first asked to."""
        self._client = httpx.Client(base_url=base_url, timeout=1.0, trust_env=False)
        self._next = 0.0

    def __enter__(self) -> LevelFollower:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._client.close()

    def look(self) -> None:
        """Ask Triton, at most every two seconds; a server that does not answer changes nothing."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_S
        try:
            settings = self._client.get("/v2/logging").raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return
        level = level_of(settings)
        if level != _OURS.level:
            _OURS.setLevel(level)
            _OURS.debug("the log level is Triton's: %s", logging.getLevelName(level))
