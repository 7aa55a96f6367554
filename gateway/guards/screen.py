"""To be written: patterns that texts must not hold."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config.limits import Screen


class PromptScreen:
    """Lets everything pass, for now."""

    def __init__(self, screen: Screen) -> None:
        """Compile the patterns."""

    def check(self, texts: Sequence[str], field: str) -> None:
        """See :class:`gateway.guards.protocols.TextScreen`."""
