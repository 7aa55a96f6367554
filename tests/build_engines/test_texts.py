from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from build_engines.spec import ModelSpec
from build_engines.texts import (
    TextSet,
    load_text_set,
    read_texts,
    resolve_source,
    source_hashes,
    tokenize,
    unknown_share,
)
from tritonforge.errors import CalibrationError, RecipeError
from tritonforge.recipe import Recipe

SPEC = ModelSpec("embedding", "mean", True, "softmax", "cls", (), 32, 64, 400, 0)

LEE = "package:gensim/gensim/test/test_data/lee_background.cor"


def articles() -> list[str]:
    return read_texts(resolve_source(LEE, "calibration.texts"), "text", "calibration.texts")[:60]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[..., Path]) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model("bert") / "tokenizer.json"))


def recipe(texts: Path | str | None, **sections: Any) -> Recipe:
    calibration = {"texts": None if texts is None else str(texts), **sections.pop("calibration", {})}
    return Recipe.model_validate({"name": "toy", "model": "toy", "calibration": calibration, **sections})


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def load(found: Recipe, tokenizer: Tokenizer) -> TextSet:
    return load_text_set(found, SPEC, tokenizer)


# -- sources


def test_every_format_gives_its_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", ["one", "", "two words"])
    write(tmp_path / "b.jsonl", [json.dumps({"text": "three"}), json.dumps({"text": "four\nlines"})])
    write(tmp_path / "c.csv", ["label,text", 'x,"five, with a comma"'])
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe")
    whole = ["one", "two words", "three", "four\nlines", "five, with a comma"]
    assert read_texts(tmp_path, "text", "calibration.texts") == whole
    assert len(source_hashes(recipe(tmp_path))) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"\n \n", "holds no text"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "cannot be read"),
        ("other.jsonl", b'{"body": "x"}\n', "no 'text' in it"),
        ("broken.jsonl", b'{"text": ', "cannot be read"),
        ("list.jsonl", b"[1]\n", "cannot be read"),
        ("other.csv", b"a,b\n1,2\n", "no 'text' in it"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=says) as caught:
        read_texts(path, "text", "calibration.texts")
    assert name in str(caught.value.where)
    assert caught.value.mend


def test_text_that_ships_in_a_package() -> None:
    path = resolve_source("package:gensim/gensim/test/test_data/lee_background.cor", "calibration.texts")
    assert len(read_texts(path, "text", "calibration.texts")) == 300


@pytest.mark.parametrize(
    "source",
    ["/no/such/file", "package:no-such-package/x.txt", "package:gensim/no/such/file", "package:gensim"],
)
def test_a_source_that_is_not_there(source: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_source(source, "calibration.texts")
    assert caught.value.where == "calibration.texts"


# -- the split


def test_enough_texts_are_taken_whole_and_split(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = [f"text number {i} of many" for i in range(300)]
    path = write(tmp_path / "texts.txt", texts)
    found = load(recipe(path, calibration={"samples": 200}, gate={"samples": 50}), tokenizer)
    assert (len(found.calibration), len(found.held_out), found.notes) == (200, 50, ())
    assert set(found.held_out_texts) < set(texts)
    for ids, text in zip(found.held_out, found.held_out_texts, strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.encode(text).ids == ids.tolist()
    held = {tuple(ids) for ids in found.held_out}
    assert not held & {tuple(ids) for ids in found.calibration}


def test_the_seed_decides(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "texts.txt", [f"text {i}" for i in range(300)])
    settings = {"samples": 100, "seed": 3}
    first, again = (load(recipe(path, calibration=settings), tokenizer) for _ in range(2))
    other = load(recipe(path, calibration={**settings, "seed": 4}), tokenizer)
    assert first.held_out_texts == again.held_out_texts != other.held_out_texts


def test_few_long_texts_give_windows_as_long_as_the_mix(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = articles()
    path = write(tmp_path / "articles.txt", whole)
    mix = [{"tokens": 10}, {"tokens": 40}]
    settings: dict[str, Any] = {"calibration": {"samples": 200}, "gate": {"samples": 100}}
    found = load(recipe(path, **settings, length_mix=mix), tokenizer)
    assert (len(found.calibration), len(found.held_out)) == (200, 100)
    lengths = np.array([len(ids) for ids in found.calibration])
    assert 8 < np.percentile(lengths, 25) < 20
    assert 30 < np.percentile(lengths, 75) <= 64
    assert "windows" in found.notes[0]
    sources = [{i for i, article in enumerate(whole) if text in article} for text in found.held_out_texts]
    held = {i for source in sources for i in source if len(source) == 1}
    assert 0 < len(held) < 40, "held-out windows come from texts of their own"


def test_texts_of_its_own_to_judge_by(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "texts.txt", [f"text {i}" for i in range(20)])
    judged = write(tmp_path / "judged.txt", ["text 1", "quite another one"])
    settings: dict[str, Any] = {"gate": {"texts": str(judged), "samples": 1}}
    assert load(recipe(path, **settings), tokenizer).held_out_texts == ["quite another one"]


def test_fewer_than_wanted_is_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = load(recipe(write(tmp_path / "texts.txt", ["one", "two", "three"])), tokenizer)
    assert found.calibration and found.held_out
    assert any("samples only" in note for note in found.notes)


@pytest.mark.parametrize("lines", [["only one"], ["the same", "the same"]])
def test_one_text_cannot_be_split(tmp_path: Path, tokenizer: Tokenizer, lines: list[str]) -> None:
    with pytest.raises(CalibrationError, match="one text only"):
        load(recipe(write(tmp_path / "texts.txt", lines)), tokenizer)


def test_texts_to_judge_by_that_are_all_calibration_texts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "texts.txt", ["one", "two"])
    with pytest.raises(CalibrationError, match="leaves no held-out text") as caught:
        load(recipe(path, gate={"texts": str(path)}), tokenizer)
    assert caught.value.where == "gate.texts"


def test_no_text_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(RecipeError, match="no calibration text"):
        load(recipe(None), tokenizer)


def test_another_language_shows(tokenizer: Tokenizer) -> None:
    known = tokenize(tokenizer, articles()[:5], 64)
    strange = tokenize(tokenizer, ["\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0"] * 3, 64)
    assert unknown_share(known, tokenizer) < 0.01
    assert unknown_share(strange, tokenizer) > 0.2
