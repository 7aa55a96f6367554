"""Development tokens: signed with a shared secret, for a developer's own machine."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence

from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.config import GatewayConfig
from gateway.errors import GatewayConfigError
from gateway.security.api_keys import check_scopes
from tritonforge.errors import UsageError

MIN_SECRET_BYTES = 32
"""HS256 wants a secret as long as its hash (RFC 7518, 3.2)."""
MAX_TTL_S = 30 * 86_400


def development_secret(config: GatewayConfig) -> bytes:
    """The secret that development tokens are signed with, from the environment.

    Raises:
        GatewayConfigError: The configuration has no ``auth.development``, or the variable is not set or
            too short.
    """
    development = config.auth.development
    if development is None:
        raise GatewayConfigError(
            "development tokens are not taken by this gateway",
            where="auth.development",
            mend="add `auth: {development: {}}` to gateway.yaml, on a developer's machine only",
        )
    secret = os.environ.get(development.secret_env, "").encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise GatewayConfigError(
            f"has {len(secret)} bytes; {MIN_SECRET_BYTES} are the least" if secret else "is not set",
            where=f"environment variable {development.secret_env}",
            mend=f'export {development.secret_env}="$(openssl rand -hex 32)"',
        )
    return secret


def mint(config: GatewayConfig, subject: str, scopes: Sequence[str], ttl_s: float = 3600) -> str:
    """Sign a development token (HS256).

    Args:
        config: ``gateway.yaml``; ``auth.development`` says issuer, audience and where the secret is.
        subject: Whom it stands for: the claim ``sub``.
        scopes: As for API keys.
        ttl_s: Seconds that it holds; 30 days at most.

    Raises:
        GatewayConfigError: As for :func:`development_secret`.
        UsageError: The subject, a scope or the time is not allowed.
    """
    secret = development_secret(config)
    development = config.auth.development
    assert development is not None
    printable = subject.isascii() and subject.isprintable() and subject == subject.strip() != ""
    if not printable or subject.startswith("key:"):
        raise UsageError(
            f"{subject!r} cannot be a subject",
            where="subject",
            mend="take printable ASCII; `key:` at the start is for API keys",
        )
    check_scopes(scopes)
    if not 0 < ttl_s <= MAX_TTL_S:
        raise UsageError(
            f"a token cannot hold for {ttl_s:g} s", where="ttl", mend=f"give 1 to {MAX_TTL_S} seconds"
        )
    now = int(time.time())
    claims = {
        "iss": development.issuer,
        "aud": development.audience,
        "sub": subject,
        config.auth.scope_claim: " ".join(dict.fromkeys(scopes)),
        "iat": now,
        "nbf": now,
        "exp": now + max(1, int(ttl_s)),
        "jti": secrets.token_urlsafe(12),
    }
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(secret))
