"""Public keys of an issuer, from a file, in the form that Envoy takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey, import_key

from gateway.security.watched import WatchedFile

logger = structlog.get_logger(__name__)

_PUBLIC = ("kty", "kid", "n", "e", "crv", "x", "y")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_RSA_BITS = 2048


class KeySet:
    """A JWKS file, read again when it changes.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self._file: WatchedFile[bytes | None] = WatchedFile(path, _published, None)

    @property
    def content(self) -> bytes | None:
        """JSON of the keys that may sign tokens; None where there never was a good file."""
        return self._file.value


def _published(content: bytes) -> bytes:
    """The keys that Envoy may verify with.

    Shared secrets (``oct``) stay out: a token of the caller's own making, signed with what everybody may
    read, must find no key of that kind. Each key is bound to its one algorithm, and nothing private
    is passed on.

    Raises:
        ValueError: This is no JWKS.
    """
    data = json.loads(content)
    if not isinstance(data, dict) or not isinstance(data.get("keys"), list):
        raise ValueError("no member `keys`")
    keys = []
    for position, key in enumerate(data["keys"]):
        reason = _refusal(key)
        if reason:
            logger.warning("key_left_out", position=position, reason=reason)
        else:
            keys.append(
                {name: key[name] for name in _PUBLIC if name in key} | {"alg": _algorithm(key), "use": "sig"}
            )
    return json.dumps({"keys": keys}).encode()


def _refusal(key: Any) -> str | None:
    """Why a key cannot sign tokens here; None where it can."""
    if not isinstance(key, dict) or key.get("kty") not in ("RSA", "EC", "OKP"):
        return "not a public key of kind RSA, EC or OKP"
    if key.get("use", "sig") != "sig" or "verify" not in key.get("key_ops", ["verify"]):
        return "not for signatures"
    try:
        loaded = import_key({name: key[name] for name in _PUBLIC if name in key})
    except (JoseError, ValueError, TypeError, KeyError):
        return "cannot be read"
    if isinstance(loaded, RSAKey) and loaded.public_key.key_size < _RSA_BITS:
        return f"shorter than {_RSA_BITS} bits"
    fitting = _RSA if key["kty"] == "RSA" else (_CURVES.get(key["crv"]),)
    if _algorithm(key) not in fitting:
        return "its algorithm does not fit its kind"
    return None


def _algorithm(key: dict[str, Any]) -> Any:
    """What it says, else the common one of its kind."""
    return key.get("alg") or ("RS256" if key["kty"] == "RSA" else _CURVES.get(key["crv"]))
