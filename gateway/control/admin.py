"""Envoy's admin interface, by its Unix socket."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

_TIMEOUT_S = 5.0


class Admin:
    """Asks and tells a running Envoy.

    Args:
        socket: Its admin socket.
    """

    def __init__(self, socket: Path) -> None:
        """Connect when first asked."""
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://envoy", timeout=_TIMEOUT_S
        )

    async def __aenter__(self) -> Admin:
        """Use as a context manager."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match a regular expression.

        Raises:
            httpx.HTTPError: Envoy does not answer.
        """
        answer = await self._client.get("/stats", params={"filter": pattern, "format": "json"})
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["stats"]
        return {stat["name"]: int(stat["value"]) for stat in found if "value" in stat}

    async def post(self, path: str, **query: str) -> None:
        """Give an order, such as ``/drain_listeners``.

        Raises:
            httpx.HTTPError: Envoy does not answer, or refuses.
        """
        answer = await self._client.post(path, params=query)
        answer.raise_for_status()
