"""The Lua filters: what they are told, and the scripts beside this file put together."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from gateway.config import GatewayConfig
from gateway.envoy.local_replies import METADATA, error_info, grpc_number
from gateway.envoy.typed import extension
from gateway.errors import CODES
from gateway.identity import API_SCOPES
from gateway.security.api_keys import PREFIX

ALGORITHMS = (
    *(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
)
"""Of issuers: signatures that the holder of a public key can check but not make."""
_DEVELOPMENT = "HS256"


def credentials_filter(config: GatewayConfig) -> dict[str, Any]:
    """Brings tokens and keys into one form; the first to look at them."""
    return _filter("credentials", _script(config, "refuse.lua", "credentials.lua"))


def identify_filter(config: GatewayConfig) -> dict[str, Any]:
    """Names the holder of a verified token, and refuses who shows nothing."""
    bound = "function envoy_on_request(handle) identify(handle) end\n"
    return _filter("identify", _script(config, "refuse.lua", "authorize.lua") + bound)


def authorize_filter(config: GatewayConfig) -> dict[str, Any]:
    """Checks scopes, and chooses the pool."""
    bound = "function envoy_on_request(handle) authorize(handle) end\n"
    return _filter("authorize", _script(config, "refuse.lua", "authorize.lua") + bound)


def settings(config: GatewayConfig) -> dict[str, Any]:
    """What the scripts are told."""
    auth = config.auth
    several = len(auth.issuers) + (auth.development is not None) > 1
    issuers = {
        issuer.issuer: {
            "prefix": f"{issuer.name}:" if several else "",
            "algorithms": dict.fromkeys(ALGORITHMS, True),
        }
        for issuer in auth.issuers
    }
    if auth.development is not None:
        issuers[auth.development.issuer] = {
            "prefix": "dev:" if several else "",
            "algorithms": {_DEVELOPMENT: True},
        }
    pools = {model: pool.name for pool in config.pools for model in pool.models}
    return {
        "namespace": METADATA,
        "open_to_all": auth.disabled,
        "all_scopes": " ".join((*API_SCOPES, "model:*")),
        "api_keys": auth.api_keys is not None,
        "key_prefix": PREFIX,
        "counts_kserve": config.limits.shared is not None,
        "scope_claim": auth.scope_claim,
        "issuers": issuers,
        "pools": pools,
        "default_pool": pools.get("*", config.pools[0].name),
        "codes": {
            name: {
                "http": str(CODES[name].http),
                "grpc": grpc_number(CODES[name]),
                "title": CODES[name].title,
                "info": error_info(CODES[name]),
            }
            for name in ("invalid_value", "unauthenticated", "forbidden", "not_found", "model_not_found")
        },
    }


def literal(value: Any) -> str:
    """A value as Lua source.

    Raises:
        TypeError: Lua has no such value.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        # What is no letter or digit becomes a decimal escape, so that nothing can end the string.
        return '"' + "".join(chr(b) if b < 128 and chr(b).isalnum() else f"\\{b:03d}" for b in data) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{literal(key)}] = {literal(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"Lua has no {type(value).__name__}")


def _script(config: GatewayConfig, *names: str) -> str:
    folder = files("gateway.envoy")
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    return f"local SETTINGS = {literal(settings(config))}\n" + "\n".join(texts)


def _filter(name: str, source: str) -> dict[str, Any]:
    return extension(
        f"tritonforge.{name}",
        "extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": source},
    )
