"""Vectors through the official client, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from gateway.facade.openai.embeddings import shortened

TEXTS = ["a calm evening", "the minister resigned on Monday", "🙂🚀"]


def vectors(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


def test_base64_floats_and_our_own_endpoint_agree(client: openai.OpenAI, facade_url: str) -> None:
    packed = client.embeddings.create(model="embed", input=TEXTS)  # the client asks for base64 unless told
    plain = client.embeddings.create(model="embed", input=TEXTS, encoding_format="float")
    own = httpx.post(
        f"{facade_url}/embed/batch", json={"texts": TEXTS}, headers={"authorization": "Bearer token-of-alice"}
    ).json()
    assert vectors(packed).shape == (3, 32)
    np.testing.assert_array_equal(vectors(packed), vectors(plain))
    np.testing.assert_array_equal(vectors(packed), np.array(own["embeddings"], np.float32))
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == own["tokens"] > len(TEXTS)
    assert packed.model == "embed"


def test_base64_is_float32_little_endian(client: openai.OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(
        model="embed", input="one", encoding_format="base64"
    ).http_response.json()
    (item,) = raw["data"]
    found = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
    plain = client.embeddings.create(model="embed", input="one", encoding_format="float", user="u-1")
    np.testing.assert_array_equal(found, vectors(plain)[0])


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_dimensions_cut_and_scale_to_length_one(client: openai.OpenAI, encoding: dict[str, Any]) -> None:
    whole = vectors(client.embeddings.create(model="embed", input=TEXTS))[:, :7]
    cut = vectors(client.embeddings.create(model="embed", input=TEXTS, dimensions=7, **encoding))
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole, axis=1, keepdims=True), rtol=1e-5)


def test_a_vector_of_zeros_has_no_direction() -> None:
    assert shortened(np.zeros((1, 4), np.float32), 2).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"input": [1, 2, 3]}, "unsupported", "input"),
        ({"input": [[1, 2], [3]]}, "unsupported", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": ""}, "invalid_value", "input.0"),
        ({"input": ["fine", ""]}, "invalid_value", "input.1"),
        ({"input": None}, "invalid_value", "input"),
        ({"input": ["x"] * 41}, "invalid_value", "input"),
        ({"input": "x" * 2001}, "invalid_value", "input.0"),
        ({"dimensions": 33}, "invalid_value", "dimensions"),
        ({"dimensions": 0}, "invalid_value", "dimensions"),
        ({"encoding_format": "int8"}, "invalid_value", "encoding_format"),
        ({"model": "sort"}, "wrong_task", "model"),
        ({"colour": "blue"}, "unknown_field", "colour"),
    ],
)
def test_what_is_wrong_is_named(
    client: openai.OpenAI, body: dict[str, object], code: str, field: str
) -> None:
    good = {"model": "embed", "input": "x", "encoding_format": "float"}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.post("/embeddings", body={**good, **body}, cast_to=object)
    assert caught.value.code == code
    assert caught.value.param == field or (field == "input.0" and caught.value.param == "input")


def test_errors_have_the_clients_types(client: openai.OpenAI) -> None:
    def ask(model: str, key: str) -> None:
        client.with_options(api_key=key).embeddings.create(model=model, input="x")

    ask("embed", "token-of-bob")
    with pytest.raises(openai.NotFoundError, match="no model nowhere"):
        ask("nowhere", "token-of-alice")
    with pytest.raises(openai.AuthenticationError, match="bearer token"):
        ask("embed", "token-of-nobody")
    with pytest.raises(openai.PermissionDeniedError, match="model:tinygen") as denied:
        client.with_options(api_key="token-of-bob").completions.create(model="tinygen", prompt="x")
    assert denied.value.code == "forbidden"
