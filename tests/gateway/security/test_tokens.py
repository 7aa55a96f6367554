"""Development tokens."""

from __future__ import annotations

import time

import pytest
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import OctKey

from gateway.config import GatewayConfig
from gateway.errors import GatewayConfigError
from gateway.security.tokens import mint
from tritonforge.errors import UsageError

SECRET = "s" * 32
DEVELOPMENT = GatewayConfig.model_validate({"auth": {"development": {"secret_env": "OWN_SECRET"}}})


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_SECRET", SECRET)


def test_a_token_says_what_envoy_asks_for() -> None:
    token = mint(DEVELOPMENT, "alice", ["embed", "model:*", "embed"], 60)
    read = jwt.decode(token, OctKey.import_key(SECRET), algorithms=["HS256"])
    assert read.header == {"alg": "HS256", "typ": "JWT"}
    claims = read.claims
    assert {name: claims[name] for name in ("iss", "aud", "sub", "scope")} == {
        "iss": "tritonforge-dev",
        "aud": "tritonforge",
        "sub": "alice",
        "scope": "embed model:*",
    }
    assert claims["exp"] == claims["iat"] + 60
    assert abs(claims["iat"] - time.time()) < 10
    with pytest.raises(BadSignatureError):
        jwt.decode(token, OctKey.import_key("t" * 32), algorithms=["HS256"])


def test_scopes_go_where_the_configuration_says() -> None:
    config = GatewayConfig.model_validate(
        {"auth": {"development": {"secret_env": "OWN_SECRET", "issuer": "me"}, "scope_claim": "scp"}}
    )
    claims = jwt.decode(mint(config, "alice", ["embed"]), OctKey.import_key(SECRET)).claims
    assert (claims["scp"], claims["iss"]) == ("embed", "me")
    assert "scope" not in claims


@pytest.mark.parametrize("subject", ["", " ", "key:ci-000000", "a\nb", "ä", " a"])
def test_subjects_are_checked(subject: str) -> None:
    with pytest.raises(UsageError, match="subject"):
        mint(DEVELOPMENT, subject, ["embed"])


@pytest.mark.parametrize("ttl", [0, -5, 10**9, float("nan")])
def test_times_are_checked(ttl: float) -> None:
    with pytest.raises(UsageError, match="cannot hold"):
        mint(DEVELOPMENT, "alice", ["embed"], ttl)


def test_scopes_are_checked() -> None:
    with pytest.raises(UsageError, match="unknown scopes: 'root'"):
        mint(DEVELOPMENT, "alice", ["root"])


def test_where_there_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GatewayConfigError, match="not taken"):
        mint(GatewayConfig(), "alice", ["embed"])
    monkeypatch.setenv("OWN_SECRET", "short")
    with pytest.raises(GatewayConfigError, match="has 5 bytes") as caught:
        mint(DEVELOPMENT, "alice", ["embed"])
    assert "short" not in str(caught.value)
    monkeypatch.delenv("OWN_SECRET")
    with pytest.raises(GatewayConfigError, match="is not set"):
        mint(DEVELOPMENT, "alice", ["embed"])
