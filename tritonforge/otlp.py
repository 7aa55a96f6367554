"""The address of an OTLP/HTTP collector, as everybody here takes it."""

from __future__ import annotations

from urllib.parse import urlsplit

TRACES_PATH = "/v1/traces"


def base_url(value: str) -> str:
    """Check a collector's URL; spans are posted to :data:`TRACES_PATH` below what is returned.

    Args:
        value: ``http://HOST:PORT`` or ``https://HOST:PORT``, with or without that path.

    Raises:
        ValueError: It is none, or holds what would be shown in logs and arguments.
    """
    url = urlsplit(value)
    _ = url.port  # raises where it is no number
    if url.scheme not in ("http", "https") or not url.hostname or url.netloc.endswith(":"):
        raise ValueError("give http://HOST:PORT or https://HOST:PORT")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("give the address alone: a key belongs into a header")
    return value.rstrip("/").removesuffix(TRACES_PATH).rstrip("/")
