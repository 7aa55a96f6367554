"""Addresses as the command line takes them."""

from __future__ import annotations

from urllib.parse import urlsplit


def host_and_port(url: str) -> tuple[str, int, bool]:
    """Take ``[scheme://]host:port`` apart; the last says whether it wants TLS."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    secure = parts.scheme in ("https", "wss")
    return parts.hostname or "localhost", parts.port or (443 if secure else 80), secure
