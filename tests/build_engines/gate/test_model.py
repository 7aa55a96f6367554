"""The model folder alone: tiny models of every architecture, and ways to spoil one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from build_engines.gate.model import check_model, check_text
from build_engines.gate.verdict import Verdict
from build_engines.model_files import find_model
from build_engines.repository.tokenizer import write_tokenizer
from build_engines.spec import settle_spec
from build_engines.texts import tokenize
from tritonforge.recipe import Recipe

ARCHITECTURES = (
    "bert",
    "roberta",
    "distilbert",
    "mpnet",
    "electra",
    "modernbert",
    "albert",
    "deberta-v2",
    "fnet",
    "qwen3",
)
RECIPE = Recipe(name="toy", model="unused")


@pytest.fixture
def copy(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A model folder of one's own."""

    def make(architecture: str = "bert", task: str = "embedding") -> Path:
        return shutil.copytree(tiny_model(architecture, task), tmp_path / "model")

    return make


def verdict(folder: Path, tokenizer: Path | None = None) -> Verdict:
    files = find_model(str(folder))
    spec = settle_spec(RECIPE, files)
    if tokenizer is None:
        tokenizer = folder / "served.json"
        write_tokenizer(files, spec, tokenizer)
    return check_model(files, spec, tokenizer)


def failed(found: Verdict) -> dict[str, Any]:
    return {check.name: check for check in found.failures}


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, {"format": "pt"})


def set_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize("task", ["embedding", "classification"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sound_model_passes(
    tiny_model: Callable[..., Path], architecture: str, task: str, tmp_path: Path
) -> None:
    files = find_model(str(tiny_model(architecture, task)))
    spec = settle_spec(RECIPE, files)
    write_tokenizer(files, spec, tmp_path / "tokenizer.json")
    found = check_model(files, spec, tmp_path / "tokenizer.json")
    assert found.passed, found.failures
    judged = {check.name for check in found.checks if check.outcome == "pass"}
    assert {"weights.finite", "weights.embedding", "architecture.layers", "weights.shapes"} <= judged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_planted_number(copy: Callable[..., Path], value: float, dtype: torch.dtype) -> None:
    folder = copy()
    name = "encoder.layer.1.output.dense.weight"

    def plant(weights: dict[str, torch.Tensor]) -> None:
        for key, tensor in weights.items():
            weights[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        weights[name].view(-1)[17] = value
        weights[name].view(-1)[40] = value

    change(folder, plant)
    check = failed(verdict(folder))["weights.finite"]
    assert check.figure == 2
    assert check.worst == ({"tensor": name, "values": 2, "first": 17, "file": "model.safetensors"},)
    assert "again" in check.mend


def test_layers_that_are_missing(copy: Callable[..., Path]) -> None:
    folder = copy()

    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if ".layer.1." in name]:
            del weights[name]

    change(folder, drop)
    check = failed(verdict(folder))["architecture.layers"]
    assert (check.figure, check.threshold) == (1, 2)
    assert check.worst == ({"layer": 1, "problem": "missing"},)


def test_more_layers_than_config_says(copy: Callable[..., Path]) -> None:
    """transformers would leave the last one out without a word."""
    folder = copy()
    set_config(folder, num_hidden_layers=1)
    check = failed(verdict(folder))["architecture.layers"]
    assert check.worst == ({"layer": 1, "problem": "not in config.json"},)


def test_a_tensor_missing_in_one_layer(copy: Callable[..., Path]) -> None:
    folder = copy()
    change(folder, lambda weights: weights.__delitem__("encoder.layer.1.output.dense.bias"))
    check = failed(verdict(folder))["architecture.layers"]
    assert check.worst == ({"layer": 1, "problem": "output.dense.bias is missing"},)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"vocab_size": 500}, "weights.embedding"),
        ({"hidden_size": 48}, "weights.embedding"),
        ({"intermediate_size": 80}, "weights.shapes"),
    ],
)
def test_config_of_another_model(copy: Callable[..., Path], keys: dict[str, int], name: str) -> None:
    folder = copy()
    set_config(folder, **keys)
    assert name in failed(verdict(folder))


def test_a_layer_of_another_shape(copy: Callable[..., Path]) -> None:
    folder = copy()
    name = "encoder.layer.1.output.dense.weight"
    change(folder, lambda weights: weights.update({name: torch.zeros(32, 63)}))
    found = failed(verdict(folder))["weights.shapes"].worst
    assert any(entry.get("tensor") in {name, name.replace("1", "0")} for entry in found)


def test_positions_for_fewer_tokens_than_the_recipe_says(copy: Callable[..., Path]) -> None:
    folder = copy()
    set_config(folder, max_position_embeddings=128)
    check = failed(verdict(folder))["architecture.positions"]
    assert (check.figure, check.threshold) == (64, 128)


def test_a_head_for_other_labels(copy: Callable[..., Path]) -> None:
    folder = copy(task="classification")
    set_config(folder, id2label={"0": "good", "1": "bad"}, label2id={"good": 0, "bad": 1})
    check = failed(verdict(folder))["weights.head"]
    assert (check.figure, check.threshold) == (3, 2)


def test_quantized_weights(copy: Callable[..., Path]) -> None:
    folder = copy()
    name = "encoder.layer.0.output.dense.weight"
    change(folder, lambda weights: weights.update({name: weights[name].to(torch.int8)}))
    assert failed(verdict(folder))["weights.dtype"].worst == ({"tensor": name, "dtype": "I8"},)


# -- the vocabulary


def shrunk(folder: Path, keep: int) -> Path:
    """The served tokenizer with a word-piece vocabulary of its first tokens."""
    path = folder / "small.json"
    data = json.loads(Tokenizer.from_file(str(folder / "served.json")).to_str())
    data["model"]["vocab"] = {token: n for token, n in data["model"]["vocab"].items() if n < keep}
    path.write_text(json.dumps(data))
    return path


def test_a_tokenizer_of_a_smaller_model(copy: Callable[..., Path]) -> None:
    folder = copy()
    verdict(folder)
    check = failed(verdict(folder, shrunk(folder, 200)))["architecture.vocabulary"]
    assert check.figure == 0.5
    assert "trained with" in check.mend


def test_a_tokenizer_of_a_larger_model(copy: Callable[..., Path]) -> None:
    folder = copy()
    verdict(folder)
    tokenizer = Tokenizer.from_file(str(folder / "served.json"))
    tokenizer.add_tokens(["foreign"])
    tokenizer.save(str(folder / "large.json"))
    check = failed(verdict(folder, folder / "large.json"))["architecture.token_ids"]
    assert (check.figure, check.threshold) == (400, 399)
    assert check.worst == ({"token": "foreign", "id": 400},)


def test_another_padding_token(copy: Callable[..., Path]) -> None:
    folder = copy()
    set_config(folder, pad_token_id=7)
    assert "config.json says 7" in failed(verdict(folder))["architecture.special_tokens"].worst[0]["problem"]


def test_a_special_token_that_is_no_token(copy: Callable[..., Path]) -> None:
    folder = copy()
    verdict(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sep_token": "<eot>"}))
    found = failed(verdict(folder, folder / "served.json"))["architecture.special_tokens"].worst
    assert {"token": "<eot>", "problem": "sep_token is not in the vocabulary"} in found


# -- held-out text


@pytest.mark.parametrize(
    ("texts", "passes"),
    [
        (["The Prime Minister spoke in Canberra today.", "Rain is expected in the north."], True),
        (["ሰላም ለሁሉም ሰው ዛሬ", "გამარჯობა მსოფლიო დღეს", "ആശംസകൾ ലോകമേ"], False),
    ],
)
def test_text_in_another_language(copy: Callable[..., Path], texts: list[str], passes: bool) -> None:
    folder = copy()
    verdict(folder)
    tokenizer = Tokenizer.from_file(str(folder / "served.json"))
    check = check_text(tokenize(tokenizer, texts, 64), folder / "served.json")
    assert (check.outcome == "pass") == passes
    assert check.mend and "language" in check.mend
    assert check.figure is not None and np.isfinite(check.figure)
