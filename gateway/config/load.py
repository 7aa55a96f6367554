"""Reads ``gateway.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gateway.config.schema import GatewayConfig
from gateway.errors import GatewayConfigError
from tritonforge.errors import first_line


def load_config(path: Path) -> GatewayConfig:
    """Read and check a gateway's configuration; paths in it are relative to its folder.

    Raises:
        GatewayConfigError: The file is missing, is no YAML, or holds something that is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GatewayConfigError(
            f"cannot be read: {first_line(error)}",
            where=str(path),
            mend="name a file with --config, or try `tritonforge gateway --open`",
        ) from error
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise GatewayConfigError(
            f"is not YAML: {' '.join(str(error).split())}", where=str(path), mend="mend the line it names"
        ) from error
    return parse_config(data, path)


def parse_config(data: Any, path: Path) -> GatewayConfig:
    """Check the content of a file.

    Raises:
        GatewayConfigError: Something in it is not allowed; every fault is named.
    """
    try:
        config = GatewayConfig.model_validate(_anchored(data, path.parent))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors()]
        raise GatewayConfigError(
            "; ".join(faults), where=str(path), mend="docs/gateway.md lists every key and its values"
        ) from error
    return config


_FILES = frozenset({"certificate", "key", "client_ca", "ca_file", "jwks_file", "file"})


def _anchored(data: Any, folder: Path) -> Any:
    """Make the paths of files absolute, wherever in the tree they stand."""
    if isinstance(data, dict):
        return {
            key: str((folder / value).resolve())
            if key in _FILES and isinstance(value, str)
            else _anchored(value, folder)
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [_anchored(item, folder) for item in data]
    return data
