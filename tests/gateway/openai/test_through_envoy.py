"""The official client against the whole gateway: real tokens and keys, Envoy's own answers, leaving."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from gateway.security.api_keys import ApiKeyStore
from tests.gateway.conftest import ALL_SCOPES, Door, open_door
from tests.gateway.openai.test_chat import GREEDY, text_of
from tests.gateway.openai.test_leaving import left_in_mid_stream
from tritonforge.server import TritonServer


def client_of(door: Door, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{door.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def caller(door: Door) -> openai.OpenAI:
    return client_of(door, door.mint(ALL_SCOPES))


def test_every_endpoint(caller: openai.OpenAI) -> None:
    assert {model.id for model in caller.models.list()} == {"embed", "sort", "tinygen"}
    assert len(caller.embeddings.create(model="embed", input=["one", "two"]).data[1].embedding) == 32
    assert caller.completions.create(model="tinygen", prompt="x", max_tokens=2).choices[0].text is not None
    whole = text_of(caller.chat.completions.create(**GREEDY))
    chunks = caller.chat.completions.create(**GREEDY, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_keys_and_tokens(door: Door) -> None:
    made = ApiKeyStore(door.folder / "keys.json").create(["embed", "model:embed"], "openai")
    with_key = client_of(door, made.key)
    assert with_key.embeddings.create(model="embed", input="x").data
    with pytest.raises(openai.PermissionDeniedError) as denied:
        with_key.completions.create(model="tinygen", prompt="x")
    assert denied.value.code == "forbidden"
    for wrong in ("x.y.z", door.mint(ALL_SCOPES, aud="another"), f"{made.key}x"):
        with pytest.raises(openai.AuthenticationError) as caught:
            client_of(door, wrong).models.list()
        assert caught.value.code == "unauthenticated"


def test_a_flood_is_told_as_such(triton: TritonServer, tmp_path: Path) -> None:
    limits = {"local": {"per_second": 1, "burst": 2}, "address": None}
    with open_door([triton], tmp_path, limits=limits) as door:
        caller = client_of(door, door.mint(ALL_SCOPES))
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(200):  # one flows in each second
                caller.embeddings.create(model="embed", input="x")
    assert caught.value.code == "rate_limited"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_leaving_a_stream_reaches_triton(caller: openai.OpenAI, triton: TritonServer) -> None:
    assert left_in_mid_stream(caller, triton) == {"cancelled": 4}
