"""What only Envoy asks. No model is needed: the servers are away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.config import GatewayConfig
from gateway.facade.app import create_app
from gateway.identity import SCOPES_HEADER, SUBJECT_HEADER
from gateway.security.api_keys import ApiKeyStore

ALICE = {SUBJECT_HEADER: "alice", SCOPES_HEADER: "embed model:*"}
RAW = ("/v2/models/embed/infer", "/inference.GRPCInferenceService/ModelInfer")


@contextlib.asynccontextmanager
async def envoy(config: GatewayConfig) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(config, "127.0.0.1:1")
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://facade") as client,
    ):
        yield client


def keyed(path: Path) -> GatewayConfig:
    return GatewayConfig.model_validate({"auth": {"api_keys": {"file": str(path)}}})


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_a_key_is_let_in_until_it_is_revoked(tmp_path: Path, method: str) -> None:
    store = ApiKeyStore(tmp_path / "keys.json")
    made = store.create(["embed", "model:minilm"], "ci")
    key = made.key
    async with envoy(keyed(store.path)) as client:
        answer = await client.request(method, "/internal/admit/embed?x=1", headers={"x-api-key": key})
        assert answer.status_code == 200
        assert answer.headers[SUBJECT_HEADER] == f"key:{made.id}"
        assert answer.headers[SCOPES_HEADER].split() == ["embed", "model:minilm"]
        store.revoke(made.id)
        answer = await client.request(method, "/internal/admit/embed", headers={"x-api-key": key})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert SUBJECT_HEADER not in answer.headers
    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("path", ["/internal/admit", "/internal/admit/", "/internal/admit/v2/health"])
async def test_nobody_is_refused(tmp_path: Path, path: str) -> None:
    async with envoy(keyed(tmp_path / "keys.json")) as client:
        assert (await client.post(path)).status_code == 401
        assert (await client.post(path, headers={"x-api-key": "tfk_ci-000000_no"})).status_code == 401
        assert (await client.post(path, headers={"x-api-key": ""})).status_code == 401
    async with envoy(GatewayConfig()) as client:  # keys are not taken at all
        assert (await client.post(path, headers={"x-api-key": "tfk_ci-000000_no"})).status_code == 401


async def test_a_bad_key_is_not_saved_by_a_token(tmp_path: Path) -> None:
    async with envoy(keyed(tmp_path / "keys.json")) as client:
        answer = await client.get("/internal/admit/embed", headers={**ALICE, "x-api-key": "wrong"})
    assert answer.status_code == 401


async def test_kserve_is_counted_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONFORGE_REDIS_URL", "redis://127.0.0.1:1/0")  # away: this process counts
    config = GatewayConfig.model_validate({"limits": {"shared": {"requests_per_minute": len(RAW)}}})
    async with envoy(config) as client:
        for path in ("/embed", "/v1/embeddings", "/tritonforge.v1.ModelService/Predict"):
            answer = await client.post(f"/internal/admit{path}", headers=ALICE)
            assert answer.status_code == 200
            assert "ratelimit-limit" not in answer.headers
        for left, path in zip((1, 0), RAW, strict=True):
            answer = await client.post(f"/internal/admit{path}", headers=ALICE)
            assert answer.status_code == 200
            assert answer.headers["ratelimit-remaining"] == str(left)
        answer = await client.post(f"/internal/admit{RAW[0]}", headers=ALICE)
        bob = await client.post(f"/internal/admit{RAW[0]}", headers={**ALICE, SUBJECT_HEADER: "bob"})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["ratelimit-remaining"] == "0"
    assert bob.status_code == 200


async def test_key_sets_are_public_asymmetric_and_fresh(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    rsa, ec = RSAKey.generate_key(2048, {"kid": "r"}), ECKey.generate_key("P-256", {"kid": "e"})
    edwards = OKPKey.generate_key("Ed25519", {"kid": "o"})
    keys = [key.as_dict(private=True) for key in (rsa, ec, edwards)]
    left_out = [
        OctKey.generate_key(256, {"kid": "shared"}).as_dict(private=True),
        {**rsa.as_dict(), "kid": "encryption", "use": "enc"},
        {**rsa.as_dict(), "kid": "confused", "alg": "HS256"},
        {**ec.as_dict(), "kid": "off-curve", "x": "AAAA"},
        RSAKey.generate_key(1024, {"kid": "short"}).as_dict(),
        "no key",
    ]
    path.write_text(json.dumps({"keys": keys + left_out}))
    issuer = {"name": "own", "issuer": "https://own", "audiences": ["tritonforge"], "jwks_file": str(path)}
    async with envoy(GatewayConfig.model_validate({"auth": {"issuers": [issuer]}})) as client:
        answer = await client.get("/internal/jwks/own")
        published = {key["kid"]: key for key in answer.json()["keys"]}
        assert {kid: key["alg"] for kid, key in published.items()} == {
            "r": "RS256",
            "e": "ES256",
            "o": "EdDSA",
        }
        assert not any("d" in key or "p" in key for key in published.values())
        path.write_text(json.dumps({"keys": [ec.as_dict()]}))
        rotated = await client.get("/internal/jwks/own")
        assert [key["kid"] for key in rotated.json()["keys"]] == ["e"]
        path.write_text('{"keys": [')  # half written: the last good keys hold
        assert (await client.get("/internal/jwks/own")).content == rotated.content
        unknown = await client.get("/internal/jwks/other")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        path.unlink()
        assert (await client.get("/internal/jwks/own")).status_code == 503


async def test_the_schema_does_not_show_them() -> None:
    async with envoy(GatewayConfig()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert not any(path.startswith("/internal") for path in paths)
