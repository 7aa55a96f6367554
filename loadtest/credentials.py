"""How a load test proves to a gateway who it is: by the environment or a file, never by the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tritonforge.errors import UsageError

TOKEN_VARIABLE = "TRITONFORGE_TOKEN"
API_KEY_VARIABLE = "TRITONFORGE_API_KEY"


def credentials(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Headers that carry the token or the API key of the environment; none where there is neither."""
    values = os.environ if environment is None else environment
    headers = {}
    if token := values.get(TOKEN_VARIABLE, "").strip():
        headers["authorization"] = f"Bearer {token}"
    if key := values.get(API_KEY_VARIABLE, "").strip():
        headers["x-api-key"] = key
    return headers


def read_secret(file: Path) -> str:
    """Read a token or an API key from a file.

    Raises:
        UsageError: There is none.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(file), mend="name a readable file") from error
    if not secret or "\n" in secret:
        raise UsageError("must hold one line", where=str(file), mend="write the token or key into it, alone")
    return secret
