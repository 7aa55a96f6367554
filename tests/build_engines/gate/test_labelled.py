"""Labelled data: what is read, and the metrics against plain definitions of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build_engines.gate import labelled as module
from build_engines.gate.labelled import Labelled, load_labelled, metric_checks, metrics
from build_engines.model_files import find_model
from build_engines.repository.tokenizer import write_tokenizer
from build_engines.spec import ModelSpec, settle_spec
from tritonforge.errors import RecipeError
from tritonforge.recipe import Recipe

EMBEDDING = ModelSpec("embedding", "mean", True, "softmax", "cls", (), 4, 64, 400, 0)
LABELS = ModelSpec("classification", "cls", False, "softmax", "cls", ("calm", "glad", "sad"), 3, 64, 400, 0)
MANY = replace(LABELS, activation="sigmoid")


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    files = find_model(str(tiny_model("bert")))
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(files, settle_spec(Recipe(name="toy", model="unused"), files), path)
    return Tokenizer.from_file(str(path))


@pytest.fixture
def load(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Labelled]:
    def run(spec: ModelSpec, *lines: Any) -> Labelled:
        path = tmp_path / "data.jsonl"
        path.write_text(
            "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8"
        )
        return load_labelled(str(path), spec, tokenizer, 0)

    return run


PAIRS = [
    {"text": "rain in Perth", "text_pair": "it rains", "score": 4.5},
    {"text": "a cat", "text_pair": "the court of appeal", "score": 0},
    {"text": "the minister spoke", "text_pair": "a minister said", "score": 3.2},
]


def test_pairs(load: Callable[..., Labelled]) -> None:
    data = load(EMBEDDING, *PAIRS, "")
    assert data.kind == "pairs"
    assert data.texts[0] == "rain in Perth" and data.texts[3] == "it rains"
    assert data.truth.tolist() == [4.5, 0, 3.2]
    assert all(len(ids) > 2 for ids in data.sequences)


def test_labels_by_name_and_by_number_and_several(load: Callable[..., Labelled]) -> None:
    data = load(
        MANY,
        {"text": "a", "label": "sad"},
        {"text": "b", "label": 0},
        {"text": "c", "label": ["calm", "sad"]},
    )
    assert data.names == LABELS.labels
    assert data.truth.tolist() == [[False, False, True], [True, False, False], [True, False, True]]


def test_labels_of_embeddings_are_whatever_the_file_says(load: Callable[..., Labelled]) -> None:
    data = load(EMBEDDING, {"text": "a", "label": "sport"}, {"text": "b", "label": "news"})
    assert data.names == ("news", "sport")


@pytest.mark.parametrize(
    ("spec", "lines", "says"),
    [
        (LABELS, [{"text": "a", "label": "angry"}], "'angry' is none of calm, glad, sad"),
        (LABELS, [{"text": "a", "label": 3}], "is none of"),
        (LABELS, [{"text": "a"}], "is none of"),
        (LABELS, [{"text": " ", "label": "sad"}], "no 'text'"),
        (LABELS, PAIRS, "for embeddings"),
        (EMBEDDING, [{"text": "a", "text_pair": "b", "score": "high"}], "no number"),
        (EMBEDDING, [PAIRS[0], {"text": "a", "label": "b"}], "mixes"),
        (EMBEDDING, ["[1, 2]"], "is no object"),
        (EMBEDDING, ["{"], "cannot be read"),
        (EMBEDDING, [""], "is empty"),
    ],
)
def test_mistakes(load: Callable[..., Labelled], spec: ModelSpec, lines: list[Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        load(spec, *lines)
    assert caught.value.where and "data.jsonl" in caught.value.where
    assert caught.value.mend and "label" in caught.value.mend


def test_the_line_is_named(load: Callable[..., Labelled]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(EMBEDDING, *PAIRS, "", {"text": "a", "text_pair": "b"})
    assert caught.value.where and caught.value.where.endswith("line 5")


def test_a_large_file_is_sampled(load: Callable[..., Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    lines = [{"text": f"number {i}", "label": "sad"} for i in range(50)]
    first, second = load(LABELS, *lines), load(LABELS, *lines)
    assert len(first.texts) == 10
    assert first.texts == second.texts != [line["text"] for line in lines[:10]]


# -- metrics


def vectors(angles: list[float]) -> NDArray[np.float32]:
    return np.array([[np.cos(a), np.sin(a), 0, 0] for a in angles], np.float32)


def test_correlations(load: Callable[..., Labelled]) -> None:
    data = load(EMBEDDING, *PAIRS)
    rows = vectors([0, 0, 0, 0.1, 1.5, 0.5])
    found = metrics(data, rows, EMBEDDING)
    cosine = np.cos([0.1, 1.5, 0.5])
    assert found["pearson"] == pytest.approx(np.corrcoef(cosine, data.truth)[0, 1], abs=1e-6)
    assert found["spearman"] == pytest.approx(1)
    turned = vectors([0, 0, 0, 1.5, 0.1, 0.5])
    assert metrics(data, turned, EMBEDDING)["spearman"] == pytest.approx(-1)
    checks = metric_checks(data, turned, rows, EMBEDDING, 0.01, "try this")
    assert {check.outcome for check in checks} == {"fail"}
    assert checks[0].threshold == pytest.approx(0.99)
    assert checks[0].worst[0]["score"] in (4.5, 0)
    assert all(check.outcome == "pass" for check in metric_checks(data, rows, rows, EMBEDDING, 0.0, ""))


def test_a_text_of_many_pairs_is_run_once(load: Callable[..., Labelled]) -> None:
    data = load(
        EMBEDDING,
        {"text": "a", "text_pair": "b", "score": 3},
        {"text": "a", "text_pair": "c", "score": 1},
        {"text": "b", "text_pair": "c", "score": 2},
    )
    assert len(data.sequences) == 3 and data.places.tolist() == [0, 0, 1, 1, 2, 2]
    found = metrics(data, vectors([0, 0.2, 1.0]), EMBEDDING)  # a, b, c
    cosine = np.cos([0.2, 1.0, 0.8])
    assert found["pearson"] == pytest.approx(np.corrcoef(cosine, [3, 1, 2])[0, 1], abs=1e-6)


def test_accuracy_and_f1(load: Callable[..., Labelled]) -> None:
    data = load(LABELS, *({"text": f"t{i}", "label": i % 2} for i in range(10)))
    right = np.eye(3, dtype=np.float32)[[i % 2 for i in range(10)]]
    assert metrics(data, right, LABELS) == {"accuracy": 1, "f1": 1}
    wrong = right.copy()
    wrong[0] = [0, 1, 0]
    found = metrics(data, wrong, LABELS)
    assert found["accuracy"] == pytest.approx(0.9)
    assert found["f1"] == pytest.approx((2 * 4 / 9 + 2 * 5 / 11) / 2)
    accuracy, _ = metric_checks(data, wrong, right, LABELS, 0.01, "")
    assert accuracy.outcome == "fail"
    assert accuracy.worst == ({"text": "t0", "label": "glad", "truth": "calm"},)
    assert metric_checks(data, wrong, right, LABELS, 0.2, "")[0].outcome == "pass"


def test_embeddings_are_judged_by_the_label_of_the_nearest(load: Callable[..., Labelled]) -> None:
    data = load(EMBEDDING, *({"text": f"t{i}", "label": "ab"[i // 2]} for i in range(4)))
    assert metrics(data, vectors([0, 0.1, 1.5, 1.4]), EMBEDDING)["accuracy"] == 1
    assert metrics(data, vectors([0, 1.5, 0.1, 1.4]), EMBEDDING)["accuracy"] == 0
