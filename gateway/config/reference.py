"""Every key of ``gateway.yaml`` with its default, written from the schema, so that no page can lag behind."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.auth import ApiKeys, Auth, Development, Issuer
from gateway.config.limits import Limits, SharedLimits
from gateway.config.pools import HeadlessService, Lookup, Overflow, Pool, Region, Server
from gateway.config.schema import GatewayConfig, Listen, Tls
from gateway.config.tracing import CollectorHeader, Tracing

_WIDTH = 44

_EXAMPLES: dict[tuple[type[BaseModel], str], str] = {
    (Issuer, "name"): "company",
    (Issuer, "issuer"): "https://login.example.com",
    (Issuer, "audiences"): '["tritonforge"]',
    (Issuer, "jwks_uri"): "https://login.example.com/.well-known/jwks.json",
    (ApiKeys, "file"): "keys.json",
    (Tls, "certificate"): "tls.crt",
    (Tls, "key"): "tls.key",
    (Lookup, "name"): "triton.example.com",
    (HeadlessService, "service"): "triton-headless",
    (Region, "name"): "local",
    (Overflow, "region"): "cloud",
    (Overflow, "above"): "200",
    (CollectorHeader, "name"): "x-api-key",
    (CollectorHeader, "file"): "collector.key",
}
"""Values to show where there is no default."""

_SHOWN: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (Listen, "tls"): Tls,
    (Region, "dns"): Lookup,
    (Region, "kubernetes"): HeadlessService,
    (Pool, "overflow"): Overflow,
    (Auth, "development"): Development,
    (Auth, "api_keys"): ApiKeys,
    (Limits, "shared"): SharedLimits,
}
"""Sections that are off by default; their keys are shown commented out."""

_ITEMS: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (GatewayConfig, "pools"): Pool,
    (Pool, "regions"): Region,
    (Region, "servers"): Server,
    (Auth, "issuers"): Issuer,
    (Tracing, "headers"): CollectorHeader,
}
"""Lists of sections; one item is shown."""

_EMPTY = {(Auth, "issuers"), (Tracing, "headers")}
"""Those that are empty by default; the item is shown commented out."""


def reference() -> str:
    """A ``gateway.yaml`` that says what would hold without it, a comment beside each key."""
    return "\n".join(_section(GatewayConfig, GatewayConfig(), "", off=False)) + "\n"


def _section(model: type[BaseModel], default: BaseModel | None, indent: str, *, off: bool) -> Iterator[str]:
    """The lines of a section, with the values of ``default``; of one that is off, commented out."""
    for name, field in model.model_fields.items():
        key = (model, name)
        if key in _ITEMS:
            item_off = off or key in _EMPTY
            yield _line(indent, f"{name}:", field.description, off=item_off)
            items = getattr(default, name, None)
            item = items[0] if items else None
            first, *rest = _section(_ITEMS[key], item, indent + "    ", off=item_off)
            yield _dashed(first, indent)
            yield from rest
        elif key in _SHOWN:
            yield _line(indent, f"{name}:", field.description or "off by default", off=True)
            yield from _section(_SHOWN[key], None, indent + "  ", off=True)
        elif isinstance(inner := getattr(default, name, None), BaseModel):
            yield _line(indent, f"{name}:", field.description, off=off)
            yield from _section(type(inner), inner, indent + "  ", off=off)
        else:
            value = _value(key, field, default)
            unset = field.is_required() and key not in _EXAMPLES
            yield _line(indent, f"{name}: {value}", field.description, off=off or unset)


def _dashed(line: str, indent: str) -> str:
    """The first line of a list's item."""
    head = f"{indent}  "
    mark = "# " if line.startswith("# ") else ""
    return f"{mark}{head}- {line.removeprefix('# ')[len(head) + 2 :]}"


def _line(indent: str, text: str, comment: str | None, *, off: bool) -> str:
    line = f"{'# ' if off else ''}{indent}{text}"
    return f"{line:<{_WIDTH}}  # {comment}" if comment else line


def _value(key: tuple[type[BaseModel], str], field: FieldInfo, default: BaseModel | None) -> str:
    """A value in YAML's flow form."""
    if default is not None:
        value = getattr(default, key[1])
    elif key in _EXAMPLES:
        return _EXAMPLES[key]
    else:
        value = None if field.is_required() else field.get_default(call_default_factory=True)
    return json.dumps(list(value) if isinstance(value, tuple) else value)
