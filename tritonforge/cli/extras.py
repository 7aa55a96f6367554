"""Commands that need more than serving does say what to install, instead of failing at an import."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import PackageNotFoundError, distribution

from tritonforge.errors import UsageError


def require(doing: str, extra: str, *modules: str) -> None:
    """Refuse where modules are missing.

    Args:
        doing: What needs them, as the message begins.
        extra: The extra of this package that brings them.
        *modules: Import names.

    Raises:
        UsageError: With the command that installs them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{doing} needs {', '.join(missing)}", mend=install_command(extra))


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation: a checkout's, or a wheel's of the same version."""
    try:
        own = distribution("tritonforge")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return _in_checkout(extra)
    origin = json.loads(own.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return _in_checkout(extra)
    return f"pip install 'tritonforge[{extra}]=={own.version}'"


def _in_checkout(extra: str) -> str:
    return f"pip install -c requirements.lock -e '.[{extra}]' in a checkout of tritonforge"
