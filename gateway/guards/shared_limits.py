"""To be written: requests and tokens per minute of a user, counted in Redis."""

from __future__ import annotations

from gateway.config.limits import SharedLimits
from gateway.tasks.call import Call


class SharedLimiter:
    """Lets everything pass, for now."""

    def __init__(self, limits: SharedLimits | None) -> None:
        """Take the limits."""

    async def admit(self, call: Call) -> None:
        """See :class:`gateway.guards.protocols.Limiter`."""

    async def charge(self, call: Call, tokens: int) -> None:
        """See :class:`gateway.guards.protocols.Limiter`."""

    async def close(self) -> None:
        """Leave Redis."""
