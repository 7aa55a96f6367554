"""What a configuration comes to, and Envoy's own word on it."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.config import GatewayConfig
from gateway.config.load import parse_config
from gateway.envoy import binary, clusters, render
from gateway.envoy.lua import literal
from gateway.envoy.routes import LUA, routes
from gateway.errors import GatewayConfigError, GatewayError
from gateway.paths import RunPaths
from tests.gateway.envoy.certificates import Authority

SECRET = "s3cret-" * 6
POOL = {"regions": [{"name": "here", "servers": [{"host": "127.0.0.1"}]}]}
OPEN = {"auth": {"disabled": True}}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONFORGE_DEV_SECRET", SECRET)


@pytest.fixture
def everything(tmp_path: Path) -> dict[str, Any]:
    """Every room of gateway.yaml that changes what Envoy is told."""
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    certificate, key = authority.issue(tmp_path, "door")
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}))
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(tmp_path / "ca.pem")}
    odd = 'https://login.example.com/]]"\\\n--é'  # must not end a string of the Lua settings
    return {
        "listen": {"tls": tls, "allow_origins": ["https://app.example.com"], "trusted_hops": 1},
        "pools": [
            {**POOL, "name": "small", "models": ["a", "b.c_d-e"]},
            {**POOL, "name": "rest"},
        ],
        "auth": {
            "development": {},
            "api_keys": {"file": str(tmp_path / "keys.json")},
            "issuers": [
                {"name": "file", "issuer": odd, "audiences": ["a"], "jwks_file": str(tmp_path / "jwks.json")},
                {
                    "name": "web",
                    "issuer": "https://idp.example.com",
                    "audiences": ["a", "b"],
                    "jwks_uri": "https://idp.example.com:8443/keys",
                    "ca_file": str(tmp_path / "ca.pem"),
                },
            ],
        },
        "limits": {"shared": {"requests_per_minute": 5}},
        "resilience": {"adaptive_concurrency": True, "retries": {"hedge": True}},
        "facade": {"workers": 3},
    }


def written(data: dict[str, Any], folder: Path) -> RunPaths:
    run = folder / "run"
    run.mkdir()
    config, paths = parse_config(data, folder / "gateway.yaml"), RunPaths(run)
    clusters.write_clusters(config, paths)
    render.write(config, paths)
    return paths


def envoy() -> Path:
    return binary.locate(GatewayConfig.model_validate(OPEN))


@pytest.mark.parametrize(
    "data",
    [
        OPEN,
        {**OPEN, "limits": {"local": None, "address": None}, "logs": {"access": False}},
        {**OPEN, "facade": {"page": False, "docs": False}},
    ],
)
def test_envoy_takes_small_configurations(data: dict[str, Any], tmp_path: Path) -> None:
    binary.validate(envoy(), written(data, tmp_path).bootstrap)


def test_envoy_takes_everything_at_once(everything: dict[str, Any], tmp_path: Path) -> None:
    binary.validate(envoy(), written(everything, tmp_path).bootstrap)


def test_files_are_the_owners_alone_and_the_bootstrap_holds_no_secret(
    everything: dict[str, Any], tmp_path: Path
) -> None:
    paths = written(everything, tmp_path)
    files = [file for file in paths.folder.iterdir() if file != paths.clusters]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    from gateway.envoy.typed import pipe
    from tests.gateway.envoy.echo_door import base64url

    key = base64url(SECRET.encode())
    assert [file.name for file in files if key in file.read_text()] == ["development.jwks"]
    assert not any(SECRET in file.read_text() for file in files)
    shown = json.dumps(render.render(parse_config(everything, tmp_path / "gateway.yaml"), paths))
    assert key not in shown
    assert json.dumps(pipe(paths.admin))[1:-1] in shown


def test_every_route_says_who_may_take_it(everything: dict[str, Any], tmp_path: Path) -> None:
    for route in routes(parse_config(everything, tmp_path / "gateway.yaml")):
        said = route["metadata"]["filter_metadata"][LUA]
        assert said["api"] in {"open", "any", "embed", "classify", "generate", "kserve"}
        assert (said["api"] == "kserve") == (
            "/v2" in str(route["match"]) or "/inference." in str(route["match"])
        )


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_a_short_development_secret_is_refused(
    secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONFORGE_DEV_SECRET", secret)
    with pytest.raises(GatewayConfigError, match="TRITONFORGE_DEV_SECRET"):
        written({"auth": {"development": {}}}, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "no JWKS"),
        ("not json", "no JWKS"),
        ('{"keys": []}', "no public key"),
        ('{"keys": [{"kty": "oct", "k": "AAAA"}]}', "no public key"),
    ],
)
def test_a_file_without_public_keys_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(content)
    issuer = {"name": "idp", "issuer": "https://idp", "audiences": ["a"], "jwks_file": "jwks.json"}
    with pytest.raises(GatewayConfigError, match=said):
        written({"auth": {"issuers": [issuer]}}, tmp_path)


@pytest.mark.parametrize("uri", ["http://idp.example.com/keys", "ftp://idp.example.com/", "https://", "x"])
def test_keys_are_fetched_by_https_only(uri: str, tmp_path: Path) -> None:
    issuer = {"name": "idp", "issuer": "https://idp", "audiences": ["a"], "jwks_uri": uri}
    with pytest.raises(GatewayConfigError, match="https://HOST/PATH"):
        written({"auth": {"issuers": [issuer]}}, tmp_path)


def test_two_sources_of_tokens_have_two_names() -> None:
    issuer = {"name": "idp", "issuer": "tritonforge-dev", "audiences": ["a"], "jwks_file": "x"}
    with pytest.raises(ValueError, match="two issuers of one issuer"):
        GatewayConfig.model_validate({"auth": {"issuers": [issuer], "development": {}}})


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    tls = {"certificate": "missing.pem", "key": "missing.key"}
    with pytest.raises(GatewayConfigError, match=r"missing\.pem"):
        written({**OPEN, "listen": {"tls": tls}}, tmp_path)


def test_envoy_says_why_it_refuses(tmp_path: Path) -> None:
    paths = written(OPEN, tmp_path)
    bootstrap = json.loads(paths.bootstrap.read_text())
    bootstrap["static_resources"]["listeners"][0]["no_such_field"] = 1
    paths.bootstrap.write_text(json.dumps(bootstrap))
    with pytest.raises(GatewayError, match="no_such_field"):
        binary.validate(envoy(), paths.bootstrap)


def test_the_program_is_looked_for_where_it_is_named() -> None:
    assert binary.locate(GatewayConfig.model_validate({"envoy": {"binary": sys.executable}})) == Path(
        sys.executable
    )
    with pytest.raises(GatewayError, match="no-such-envoy"):
        binary.locate(GatewayConfig.model_validate({"envoy": {"binary": "no-such-envoy"}}))


def test_without_the_wheel_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    config = GatewayConfig()
    with pytest.raises(GatewayError, match="pip install"):
        binary.locate(config)
    program = tmp_path / "bin" / "envoy"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert binary.locate(config) == program


def test_lua_literals_cannot_be_left() -> None:
    assert literal({'a"]': [True] and True, "b": 5}) == '{["a\\034\\093"] = true, ["b"] = 5}'
    assert literal("é\n") == '"\\195\\169\\010"'
    with pytest.raises(TypeError):
        literal(None)


def test_spans_go_to_the_collector_with_the_key_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame\n")
    tracing = {"endpoint": "https://otlp.example.com/v1/traces", "sampling_percent": 2.5}
    headers = [{"name": "X-Key", "file": "key"}]
    config = parse_config({**OPEN, "tracing": {**tracing, "headers": headers}}, tmp_path / "gateway.yaml")
    run = tmp_path / "run"
    run.mkdir()
    paths = RunPaths(run)
    clusters.write_clusters(config, paths)
    render.write(config, paths)
    assert (run / "collector-x-key").read_text() == "sesame"
    assert "sesame" not in paths.bootstrap.read_text()
    binary.validate(binary.locate(config), paths.bootstrap)
    manager = _door_manager(json.loads(paths.bootstrap.read_text()))
    assert manager["tracing"]["random_sampling"] == {"value": 2.5}
    assert manager["tracing"]["client_sampling"] == {"value": 0}


def _door_manager(bootstrap: dict[str, Any]) -> dict[str, Any]:
    filters = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    found: dict[str, Any] = filters[-1]["typed_config"]
    return found


@pytest.mark.parametrize("content", ["", "two\nlines", "dé"])
def test_a_key_that_is_no_header_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    headers = [{"name": "x-key", "file": str(tmp_path / "key")}]
    config = GatewayConfig.model_validate({"tracing": {"endpoint": "http://127.0.0.1:1", "headers": headers}})
    with pytest.raises(GatewayConfigError, match="one line"):
        render.write(config, RunPaths(tmp_path))


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1:4318", "http://user:word@host", "http://host?key=1", "ftp://host", "http://host:x"],
)
def test_an_endpoint_that_is_no_base_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"tracing\.endpoint"):
        GatewayConfig.model_validate({"tracing": {"endpoint": endpoint}})
