"""The front door as benchmarks set it up: tokens checked, limits out of reach, no cache of answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

_ISSUER = "https://bench.example"
_PLENTY = {"per_second": 1_000_000, "burst": 1_000_000}


def door_key() -> RSAKey:
    """A new key to sign tokens with."""
    return RSAKey.generate_key(2048, {"kid": "bench", "use": "sig", "alg": "RS256"})


def door_token(key: RSAKey, valid_s: int = 3600) -> str:
    """A token that may embed, with any model, and speak KServe."""
    claims = {
        "iss": _ISSUER,
        "aud": "bench",
        "sub": "bench",
        "exp": int(time.time()) + valid_s,
        "scope": "embed kserve model:*",
    }
    return jwt.encode({"alg": "RS256", "kid": "bench"}, claims, key)


def door_config(
    folder: Path, key: RSAKey, *, triton_http: int, triton_grpc: int, port: int = 0, metrics_port: int = 0
) -> dict[str, Any]:
    """Keys of a gateway.yaml in front of one tritonserver on this machine.

    Args:
        folder: Gets the public key, which Envoy checks tokens by.
        key: Of :func:`door_token`.
        triton_http: Port of the server.
        triton_grpc: Port of the server.
        port: Of the door; 0 takes a free one.
        metrics_port: Of its metrics; 0 takes a free one.
    """
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    issuer = {"name": "bench", "issuer": _ISSUER, "audiences": ["bench"], "jwks_file": str(jwks)}
    server = {"http_port": triton_http, "grpc_port": triton_grpc}
    return {
        "listen": {"port": port},
        "metrics": {"port": metrics_port},
        "pools": [{"regions": [{"name": "local", "servers": [server]}]}],
        "auth": {"issuers": [issuer]},
        "limits": {"local": _PLENTY, "address": _PLENTY},
        "cache": {"enabled": False},
    }
