"""What gateway.yaml may say, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.config import GatewayConfig, load_config
from gateway.config.load import parse_config
from gateway.config.reference import reference
from gateway.errors import GatewayConfigError

CHECKOUT = Path(__file__).parents[3]
POOL = {"regions": [{"name": "here", "servers": [{}]}]}


def test_the_reference_is_the_defaults() -> None:
    assert GatewayConfig.model_validate(yaml.safe_load(reference())) == GatewayConfig()


def test_what_the_reference_shows_commented_out_is_allowed() -> None:
    lines = [line.removeprefix("# ") for line in reference().splitlines()]
    shown = yaml.safe_load("\n".join(lines))
    region = shown["pools"][0]["regions"][0]
    for other_way in ("dns", "kubernetes"):
        del region[other_way]
    shown["pools"][0]["regions"].append({"name": "cloud", "dns": {"name": "cloud.example.com"}})
    del shown["auth"]["issuers"][0]["jwks_file"]
    config = GatewayConfig.model_validate(shown)
    assert config.auth.issuers and config.limits.shared and config.listen.tls


def test_the_page_holds_the_reference() -> None:
    assert reference() in (CHECKOUT / "docs" / "gateway.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["development", "production"])
def test_the_examples_are_valid(name: str) -> None:
    load_config(CHECKOUT / "recipes" / "gateway" / f"{name}.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"listen": {"prot": 1}}, ["listen.prot"]),
        ({"listen": {"port": 70000}}, ["listen.port"]),
        ({"auth": {"disabled": True}, "listen": {"host": "0.0.0.0"}}, ["loopback"]),
        ({"auth": {"disabled": True, "development": {}}}, ["auth", "no meaning"]),
        (
            {"auth": {"issuers": [{"name": "a", "issuer": "b", "audiences": ["c"]}]}},
            ["jwks_file", "jwks_uri"],
        ),
        (
            {"auth": {"issuers": [{"name": "a", "issuer": "b", "audiences": [], "jwks_file": "x"}]}},
            ["audiences"],
        ),
        ({"pools": []}, ["at least one"]),
        ({"pools": [POOL, POOL]}, ["name of its own"]),
        ({"pools": [POOL, {**POOL, "name": "second"}]}, ["* is served by two pools"]),
        ({"pools": [{"regions": [{"name": "here"}]}]}, ["servers, dns and kubernetes"]),
        ({"pools": [{**POOL, "overflow": {"region": "here", "above": 1}}]}, ["overflow"]),
        ([], ["valid dictionary"]),
    ],
)
def test_what_is_wrong_is_named(content: object, words: list[str]) -> None:
    with pytest.raises(GatewayConfigError) as caught:
        parse_config(content, Path("gateway.yaml"))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.mend


def test_files_are_found_beside_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("auth: {api_keys: {file: secrets/keys.json}}\n")
    keys = load_config(path).auth.api_keys
    assert keys and keys.file == str((tmp_path / "secrets" / "keys.json").resolve())


@pytest.mark.parametrize("text", ["a: [", "\x00", "{}\n---\n{}"])
def test_what_is_no_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    with pytest.raises(GatewayConfigError):
        load_config(path)


def test_a_model_has_one_pool() -> None:
    config = GatewayConfig.model_validate({"pools": [POOL, {**POOL, "name": "second", "models": ["big"]}]})
    assert [pool.name for model in ("big", "small") if (pool := config.pool_of(model))] == ["second", "main"]
