"""Empties a server that is about to stop: every accepted request is answered, nothing is waited for in vain.

tritonserver 2.51 on SIGTERM stops listening and then waits until every *HTTP connection* is closed. A
client's idle keep-alive connection therefore holds it for the whole exit timeout, and it ends with status
1. Unloading is Triton's own way to know that nothing is in flight: a model is unloaded once its last
request is answered. So the models are unloaded over a connection opened beforehand, ensembles before their
parts, and models that call others before those; when all are gone the server can be ended at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import httpx

logger = logging.getLogger(__name__)

_POLL_S = 0.1


class Drain:
    """A connection to a server that outlives the closing of its port.

    Args:
        base_url: HTTP endpoint of the server.
    """

    def __init__(self, base_url: str) -> None:
        """Open the connection and learn which models are ensembles; a server that is gone is no error."""
        # One connection, kept: after SIGTERM the server accepts no other.
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        self._client = httpx.Client(base_url=base_url, timeout=15.0, limits=limits, trust_env=False)
        self._ensembles: list[str] = []
        self._callers: list[str] = []
        self._others: list[str] = []
        try:
            for model in self._loaded():
                config = self._client.get(f"/v2/models/{model}/config").json()
                self._group(config).append(model)
        except (httpx.HTTPError, ValueError) as error:
            logger.debug("cannot ask the server for its models: %s", error)

    def __enter__(self) -> Drain:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection, which the server waits for too."""
        self._client.close()

    def run(self, deadline: float, only_dead_left: Callable[[], bool]) -> bool:
        """Unload all models and wait until they are gone.

        Args:
            deadline: When to give up, on the clock of :func:`time.monotonic`.
            only_dead_left: Says whether the server's stubs are all dead; a dead one never unloads.

        Returns:
            Whether nothing is in flight any more.
        """
        try:
            for group in (self._ensembles, self._callers, self._others):
                for model in group:
                    self._client.post(f"/v2/repository/models/{model}/unload")
                while set(self._loaded()) & set(group):
                    if only_dead_left():
                        return True
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(_POLL_S)
        except (httpx.HTTPError, ValueError) as error:
            logger.debug("the server cannot be asked any more: %s", error)
            return False
        return bool(self._ensembles or self._callers or self._others)

    def _group(self, config: dict[str, Any]) -> list[str]:
        if config.get("platform") == "ensemble":
            return self._ensembles
        # The fan-out calls its engine by name, of which Triton knows nothing.
        return self._callers if "engine_model" in config.get("parameters", {}) else self._others

    def _loaded(self) -> Sequence[str]:
        index = self._client.post("/v2/repository/index").raise_for_status().json()
        return [entry["name"] for entry in index if entry.get("state") in ("READY", "UNLOADING", "LOADING")]
