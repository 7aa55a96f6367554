from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from python_backends.generator.text import TextStream, Vocabulary

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It isn't well known, is it?",
    "naïve café, Ærøskøbing, Straße; fi ﬁ e\u0301",
    "你好、世界。今天天气很好、我们去公园散步吧。",
    "مرحبا بالعالم، كيف حالك اليوم؟ السلام عليكم",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumb, 🇩🇪🇯🇵 flags, 🏳️‍🌈",
    "Здравствуй, мир! हिन्दी में नमस्ते। မြန်မာ",
]
ADDED = [AddedToken("<think>", special=False), AddedToken("日本 語", special=False)]
SPECIAL = ["<bos>", "<eos>"]


def with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_tokens(ADDED)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return with_added(tokenizer)


def byte_fallback() -> Tokenizer:
    """As Llama 2: most characters of these texts are missing and become bytes."""
    seen = sorted(set("".join(TEXTS[:3])) - {" "})
    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *seen]
    words = ["▁The", "▁fox", "▁▁", "qu", "ick", "▁q", "你好"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*letters, *words]))}
    merges = [("▁", "▁"), ("▁", "q"), ("你", "好")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_added(tokenizer)


def metaspace() -> Tokenizer:
    """As T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"])
    trainer.show_progress = False
    tokenizer.train_from_iterator(TEXTS, trainer)
    return with_added(tokenizer)


def word_piece() -> Tokenizer:
    """As BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return with_added(tokenizer)


def end_of_word() -> Tokenizer:
    """As the first GPT: the space after a word shows only when another word follows."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(vocab_size=300, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return with_added(tokenizer)


def no_decoder() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<unk>": 3}, unk_token="<unk>"))
    return with_added(tokenizer)


TOKENIZERS = {
    make.__name__: make()
    for make in (byte_level, byte_fallback, metaspace, word_piece, end_of_word, no_decoder)
}
VOCABULARIES = {name: Vocabulary(tokenizer) for name, tokenizer in TOKENIZERS.items()}
each_tokenizer = pytest.mark.parametrize("kind", sorted(TOKENIZERS))


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    """Tokens at random, some unknown, and those of real text."""
    tokenizer = TOKENIZERS[kind]
    added = st.sampled_from(sorted(tokenizer.get_added_tokens_decoder()))
    anything = st.lists(st.one_of(st.integers(0, tokenizer.get_vocab_size() + 3), added), max_size=30)
    sentence = st.sampled_from(TEXTS).map(lambda text: tokenizer.encode(text).ids)
    return st.lists(st.one_of(anything, sentence), max_size=3).map(lambda parts: list(chain(*parts)))


def pushes_of(data: st.DataObject, ids: list[int]) -> list[list[int]]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def run(stream: TextStream, pushes: Sequence[Sequence[int]]) -> tuple[list[str], int]:
    """Pieces, the last of finish(), and tokens counted."""
    pieces, counted = [], 0
    for ids in pushes:
        pieces.append(stream.push(ids))
        counted += stream.taken
    return [*pieces, stream.finish()], counted


def first_match(text: str, stops: Sequence[str]) -> int | None:
    return min((text.find(stop) for stop in stops if stop in text), default=None)


def may_begin_before(text: str, position: int, stops: Sequence[str]) -> bool:
    tails = [text[start:] for start in range(min(position, len(text)))]
    return any(len(tail) < len(stop) and stop.startswith(tail) for tail in tails for stop in stops)


@each_tokenizer
@given(data=st.data())
@settings(deadline=None)
def test_pieces_join_to_what_the_tokenizer_decodes(kind: str, data: st.DataObject) -> None:
    ids = data.draw(ids_of(kind))
    pieces, counted = run(TextStream(VOCABULARIES[kind]), pushes_of(data, ids))
    whole = TOKENIZERS[kind].decode(ids, skip_special_tokens=True)
    assert "".join(pieces) == whole
    assert counted == len(ids)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), data=st.data())
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@example(text=TEXTS[4], data=None)
def test_no_piece_of_valid_text_holds_a_broken_character(
    kind: str, text: str, data: st.DataObject | None
) -> None:
    ids = TOKENIZERS[kind].encode(text.replace("\ufffd", ""), add_special_tokens=False).ids
    pushes = pushes_of(data, ids) if data else [[index] for index in ids]
    pieces, _ = run(TextStream(VOCABULARIES[kind]), pushes)
    assert "\ufffd" not in "".join(pieces)


PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
CHARACTER_OF_BYTE = dict(
    zip(
        [*PRINTABLE, *(byte for byte in range(256) if byte not in PRINTABLE)],
        sorted(pre_tokenizers.ByteLevel.alphabet()),
        strict=True,
    )
)
TROUBLE = b"\xe4\xbd\xa0\xf0\x9f\x98\xed\xa0\xf4\x90\xc0\xe0\x80"


@given(raw=st.lists(st.one_of(st.integers(0, 255), st.sampled_from(TROUBLE))).map(bytes))
def test_wrong_bytes_are_replaced_as_the_tokenizer_does(raw: bytes) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = [tokenizer.token_to_id(CHARACTER_OF_BYTE[byte]) for byte in raw]
    pieces, _ = run(TextStream(VOCABULARIES["byte_level"]), [[index] for index in ids])
    assert "".join(pieces) == tokenizer.decode(ids) == raw.decode(errors="replace")


@each_tokenizer
@given(data=st.data())
@settings(deadline=None)
def test_text_ends_before_the_first_stop_string(kind: str, data: st.DataObject) -> None:
    ids = data.draw(ids_of(kind))
    whole = TOKENIZERS[kind].decode(ids, skip_special_tokens=True)
    cut_out = st.tuples(st.integers(0, len(whole)), st.integers(1, 6)).map(lambda at: whole[at[0] :][: at[1]])
    extended = st.tuples(cut_out, st.text("ab ", max_size=2)).map("".join)
    stops = data.draw(st.lists(st.one_of(cut_out, extended).filter(bool), min_size=1, max_size=4))
    stream = TextStream(VOCABULARIES[kind], stops)
    pieces, counted = run(stream, pushes_of(data, ids))
    match = first_match(whole, stops)
    assert "".join(pieces) == whole[:match]
    assert stream.stopped == (match is not None)

    certain = TextStream(VOCABULARIES[kind])
    known = ""
    for expected, token_id in enumerate(ids, 1):
        known += certain.push([token_id])
        match = first_match(known, stops)
        if match is not None and not may_begin_before(known, match, stops):
            assert counted == expected
            return
    assert counted == len(ids)


@given(
    text=st.text("ab", max_size=25),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
)
@example(text="aaab", stops=["aab"])
@example(text="xabcd", stops=["abcd", "bc"])
@example(text="xabcx", stops=["abcd", "bc"])
@example(text="xabc", stops=["abcd", "bc"])
@example(text="ababaab", stops=["abaab"])
@example(text="ababab", stops=["abb", "babb"])
def test_stop_strings_that_overlap(text: str, stops: list[str]) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = [tokenizer.token_to_id(character) for character in text]
    stream = TextStream(VOCABULARIES["byte_level"], stops)
    sent, longest = "", max(map(len, stops))
    for count, token_id in enumerate(ids, 1):
        sent += stream.push([token_id])
        assert stream.stopped or count - len(sent) < longest, "held back more than could be a stop string"
    assert sent + stream.finish() == text[: first_match(text, stops)]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("The quick brown fox", "quick b", "The "),
        ("你好、世界。", "、世", "你好"),
        ("now 👩‍👩‍👧‍👦 and more", "👩‍👧", "now 👩‍"),
        ("<think>why</think>", "</think>", "<think>why"),
        ("The end", "The", ""),
    ],
)
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_stop_strings_across_tokens_and_characters(kind: str, text: str, stop: str, expected: str) -> None:
    ids = TOKENIZERS[kind].encode(text).ids
    stream = TextStream(VOCABULARIES[kind], [stop])
    pieces, _ = run(stream, [[index] for index in ids])
    assert "".join(pieces) == expected
    assert stream.stopped


def test_tokens_after_the_stop_string_are_not_part_of_the_answer() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = [tokenizer.token_to_id(character) for character in "abcdef"]
    stream = TextStream(VOCABULARIES["byte_level"], ["cd"])
    assert stream.push(ids[:1]) == "a"
    assert (stream.push(ids[1:]), stream.taken, stream.stopped) == ("b", 3, True)
    assert (stream.push(ids), stream.taken, stream.finish()) == ("", 0, "")


def test_what_could_have_been_a_stop_string_comes_at_the_end() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = [tokenizer.token_to_id(character) for character in "abc"]
    stream = TextStream(VOCABULARIES["byte_level"], ["bcd", "c!"])
    assert [stream.push([index]) for index in ids] == ["a", "", ""]
    assert (stream.finish(), stream.stopped) == ("bc", False)


def test_a_decoder_that_mixes_bytes_and_characters_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex(" +"), " ")])
    with pytest.raises(ValueError, match="ByteLevel, Replace"):
        Vocabulary(tokenizer)
