"""How long an answer may become."""

from __future__ import annotations

import pytest

from python_backends.generator.protocol import SamplingParams
from python_backends.generator.request import BadRequestError, GenerationRequest
from python_backends.generator.room import settle_max_tokens
from python_backends.generator.settings import GeneratorSettings

SETTINGS = GeneratorSettings("openvino-genai", kv_cache_tokens=640, max_length=100, max_tokens=30)


def settled(max_tokens: int | None, prompt: int, kv_tokens: int = 640, min_tokens: int = 0) -> SamplingParams:
    asked = GenerationRequest("x", None, max_tokens, SamplingParams(1, min_tokens=min_tokens))
    return settle_max_tokens(asked, prompt, SETTINGS, kv_tokens)


@pytest.mark.parametrize(
    ("asked", "prompt", "gets"), [(None, 10, 30), (None, 90, 10), (None, 99, 1), (50, 50, 50), (1, 99, 1)]
)
def test_the_room_there_is(asked: int | None, prompt: int, gets: int) -> None:
    assert settled(asked, prompt).max_tokens == gets


def test_more_than_fits_is_refused_and_says_how_much_does() -> None:
    with pytest.raises(BadRequestError, match="prompt's 50 tokens leave room for 50"):
        settled(51, 50)
    with pytest.raises(BadRequestError, match="leave no room for an answer in the context of 100 tokens"):
        settled(None, 100)
    with pytest.raises(BadRequestError, match=r"KV cache of 64 tokens \(raise generation.kv_cache_mib\)"):
        settled(None, 64, kv_tokens=64)


def test_the_least_is_bounded_by_the_most() -> None:
    assert settled(None, 95, min_tokens=20).min_tokens == 5
