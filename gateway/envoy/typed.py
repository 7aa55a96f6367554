"""The few forms that Envoy's configuration repeats everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "type.googleapis.com/envoy."


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    """A message that names its type, as Envoy's extensions take it.

    Args:
        kind: Its full name without the leading ``envoy.``.
        **fields: Of the message.
    """
    return {"@type": f"{PREFIX}{kind}", **fields}


def extension(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    """An extension by its name and configuration."""
    return {"name": name, "typed_config": typed(kind, **fields)}


def header(key: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> dict[str, Any]:
    """A header that Envoy is to set; ``action`` says what happens to one that is there."""
    return {"header": {"key": key, "value": value}, "append_action": action}


def pipe(path: object) -> dict[str, Any]:
    """The address of a Unix socket."""
    return {"pipe": {"path": str(path), "mode": 0o600}}


def socket_address(host: str, port: int) -> dict[str, Any]:
    """The address of a TCP socket."""
    return {"socket_address": {"address": host, "port_value": port}}


def endpoint(address: Mapping[str, Any]) -> dict[str, Any]:
    """One member of a cluster."""
    return {"endpoint": {"address": dict(address)}}


def percent(value: int) -> dict[str, Any]:
    """A share that no runtime key changes."""
    return {"default_value": {"numerator": value, "denominator": "HUNDRED"}}
