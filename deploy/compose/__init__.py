"""Compose: ``docker/compose.yaml`` and what it mounts, as data of this package.

The files beside this one are symbolic links into ``docker/``, so that a wheel carries them. Each is named,
and the folder of secrets is not among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
STACK = "compose.yaml"
SECRETS_SCRIPT = "compose_secrets.py"
# What services mount; the tests and targets of other set-ups stay behind.
_MOUNTED = {
    "alertmanager": ("alertmanager.yml",),
    "gateway": ("gateway.yaml",),
    "grafana": ("dashboards/*.json", "provisioning/*/*.yml"),
    "otel": ("collector.yaml",),
    "prometheus": ("prometheus.yml", "rules/*.yml", "compose/*.yml"),
    "redis": ("redis.conf",),
    "tempo": ("tempo.yaml",),
}


def load_stack() -> dict[str, Any]:
    """The compose file of the checkout, its merges resolved."""
    stack: dict[str, Any] = yaml.safe_load((HERE / STACK).read_text(encoding="utf-8"))
    return stack


def mounted_files() -> dict[str, str]:
    """Text of every file that its services mount, and the script that makes the secrets, by relative path."""
    paths = [HERE / SECRETS_SCRIPT]
    for folder, patterns in _MOUNTED.items():
        for pattern in patterns:
            paths += sorted((HERE / folder).glob(pattern))
    return {path.relative_to(HERE).as_posix(): path.read_text(encoding="utf-8") for path in paths}
