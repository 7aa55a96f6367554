"""Commands that need more than serving does say what to install, instead of failing at an import."""

from __future__ import annotations

import importlib.util

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
        raise UsageError(
            f"{doing} needs {', '.join(missing)}",
            mend=f"pip install -c requirements.lock -e '.[{extra}]' in a checkout of tritonforge",
        )
