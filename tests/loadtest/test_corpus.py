from __future__ import annotations

import importlib.util

import pytest

from loadtest import corpus
from loadtest.corpus import DEFAULT_MIX, WORDS_PER_TOKEN, LengthMix, make_texts


@pytest.fixture(params=["installed", "generated"])
def either_corpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "generated":
        monkeypatch.setattr(corpus, "_lee_corpus", lambda: None)
    corpus._words.cache_clear()
    request.addfinalizer(corpus._words.cache_clear)
    return str(request.param)


def test_lengths_follow_the_mix(either_corpus: str) -> None:
    texts = make_texts(4000, LengthMix.parse("4:3,100:1"), seed=1)
    words = [len(text.split()) for text in texts]
    assert set(words) == {round(4 * WORDS_PER_TOKEN), round(100 * WORDS_PER_TOKEN)}
    assert words.count(3) / len(words) == pytest.approx(0.75, abs=0.03)


def test_same_seed_same_texts(either_corpus: str) -> None:
    mix = LengthMix.parse(DEFAULT_MIX)
    assert make_texts(50, mix, seed=3) == make_texts(50, mix, seed=3)
    assert make_texts(50, mix, seed=3) != make_texts(50, mix, seed=4)
    assert len(set(make_texts(50, mix))) > 40


def test_real_texts_where_gensim_is_installed() -> None:
    if importlib.util.find_spec("gensim") is None:
        pytest.skip("gensim is not installed")
    assert "Lee" in corpus.source()


def test_default_mix_is_the_recipes() -> None:
    from tritonforge.recipe.schema import Recipe

    default = Recipe.model_fields["length_mix"].get_default(call_default_factory=True)
    mix = LengthMix.parse(DEFAULT_MIX)
    assert list(zip(mix.tokens, mix.weights, strict=True)) == [(s.tokens, s.weight) for s in default]


@pytest.mark.parametrize("text", ["", "a:1", "8:x", "0:1", "8:0", "8:-1", "8,,9"])
def test_bad_mix(text: str) -> None:
    with pytest.raises(ValueError, match=r"mix|positive"):
        LengthMix.parse(text)
