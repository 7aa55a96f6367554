from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backends.settings import TokenizerSettings
from python_backends.tokenizer.batch import BatchTokenizer, Rejection, count_tokens

MAX_LENGTH = 12


def request_of(*texts: str | bytes) -> np.ndarray:
    rows = [[text.encode() if isinstance(text, str) else text] for text in texts]
    return np.array(rows, dtype=object).reshape(len(rows), 1)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_json: Path) -> BatchTokenizer:
    return BatchTokenizer(tokenizer_json, TokenizerSettings(MAX_LENGTH, max_text_bytes=200, threads=1))


def test_rows_are_the_texts_ids_and_short_ones_end_in_filler(
    tokenizer: BatchTokenizer, token_ids: Callable[[str], list[int]]
) -> None:
    batch = tokenizer.tokenize([request_of("one"), request_of("a longer text", "hi", "")])
    single, several = batch.results
    assert isinstance(single, np.ndarray)
    assert isinstance(several, np.ndarray)
    assert single.tolist() == [token_ids("one")]
    assert several.dtype == np.int32
    assert several[0].tolist() == token_ids("a longer text")
    assert several[1].tolist() == [*token_ids("hi"), -1, -1]
    assert several[2].tolist() == [*token_ids(""), -1, -1, -1]
    assert batch.tokens == sum(len(token_ids(text)) for text in ("one", "a longer text", "hi", ""))


def test_tokens_are_counted_text_by_text(
    tokenizer: BatchTokenizer, token_ids: Callable[[str], list[int]]
) -> None:
    texts = ["one", "a longer text", "", "word " * 30]
    (result,) = tokenizer.tokenize([request_of(*texts)]).results
    assert isinstance(result, np.ndarray)
    counts = count_tokens(result)
    assert counts.dtype == np.int32
    assert counts.tolist() == [[min(len(token_ids(text)), MAX_LENGTH)] for text in texts]


def test_nul_bytes_are_text(tokenizer: BatchTokenizer, token_ids: Callable[[str], list[int]]) -> None:
    (result,) = tokenizer.tokenize([request_of("a\0b")]).results
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [token_ids("a\0b")]


@pytest.mark.parametrize(
    ("words", "cut"), [(MAX_LENGTH - 3, 0), (MAX_LENGTH - 2, 0), (MAX_LENGTH - 1, 1), (50, 1)]
)
def test_truncation_is_exact_and_counted(
    tokenizer: BatchTokenizer, token_ids: Callable[[str], list[int]], words: int, cut: int
) -> None:
    text = " ".join(["the"] * (words - 1) + ["end"])
    batch = tokenizer.tokenize([request_of(text)])
    (result,) = batch.results
    assert isinstance(result, np.ndarray)
    whole = token_ids(text)
    expected = whole if len(whole) <= MAX_LENGTH else [*whole[: MAX_LENGTH - 1], whole[-1]]
    assert result.tolist() == [expected]
    assert batch.truncated == cut


@settings(max_examples=60)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_truncation_agrees_with_the_library(tokenizer_json: Path, texts: list[str]) -> None:
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(tokenizer_json))
    reference.no_padding()
    reference.enable_truncation(MAX_LENGTH)
    ours = BatchTokenizer(tokenizer_json, TokenizerSettings(MAX_LENGTH, 1000, 1))
    batch = ours.tokenize([request_of(text) for text in texts])
    encodings = reference.encode_batch(texts)
    assert [result.tolist() for result in batch.results if isinstance(result, np.ndarray)] == [
        [encoding.ids] for encoding in encodings
    ]
    assert batch.truncated == sum(bool(encoding.overflowing) for encoding in encodings)


@pytest.mark.parametrize(
    ("bad", "reason", "says"),
    [
        (request_of("fine", b"\xff\xfe"), "invalid_utf8", "index 1"),
        (request_of("x" * 201), "too_large", "201 bytes, 200 are allowed"),
        (np.zeros((0, 1), dtype=object), "no_texts", "at least one"),
        (np.array([[b"a", b"b"]], dtype=object), "shape", "[1, 2]"),
    ],
)
def test_a_bad_request_is_rejected_alone(
    tokenizer: BatchTokenizer, bad: np.ndarray, reason: str, says: str
) -> None:
    batch = tokenizer.tokenize([request_of("before"), bad, request_of("after", "that")])
    first, middle, last = batch.results
    assert isinstance(middle, Rejection)
    assert middle.reason == reason
    assert says in middle.message
    assert isinstance(first, np.ndarray)
    assert isinstance(last, np.ndarray)
    assert last.shape[0] == 2


@pytest.fixture
def word_tokenizer_json(tmp_path: Path) -> Path:
    """A tokenizer without special tokens that has no token for unknown words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"known": 0, "word": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_a_text_without_tokens_is_rejected(word_tokenizer_json: Path) -> None:
    tokenizer = BatchTokenizer(word_tokenizer_json, TokenizerSettings(8, 100, 1))
    empty, good = tokenizer.tokenize([request_of("known", " "), request_of("known word")]).results
    assert isinstance(empty, Rejection)
    assert empty.reason == "no_tokens"
    assert "index 1" in empty.message
    assert isinstance(good, np.ndarray)


def test_a_text_that_the_tokenizer_cannot_encode_fails_alone(word_tokenizer_json: Path) -> None:
    tokenizer = BatchTokenizer(word_tokenizer_json, TokenizerSettings(8, 100, 1))
    batch = tokenizer.tokenize([request_of("known"), request_of("strange"), request_of("word")])
    assert [isinstance(result, Rejection) for result in batch.results] == [False, True, False]
    assert batch.tokens == 2


def test_a_lone_text_that_the_tokenizer_cannot_encode_is_rejected(word_tokenizer_json: Path) -> None:
    tokenizer = BatchTokenizer(word_tokenizer_json, TokenizerSettings(8, 100, 1))
    (result,) = tokenizer.tokenize([request_of("strange")]).results
    assert isinstance(result, Rejection)
    assert result.reason == "tokenizer"


def test_max_length_must_leave_room_for_text(tokenizer_json: Path) -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        BatchTokenizer(tokenizer_json, TokenizerSettings(2, 100, 1))
