from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from python_backends.encoder.answers import ClassificationAnswers, EmbeddingAnswers, read_labels

SCORES = np.array([[0.1, 0.7, 0.2], [0.9, 0.05, 0.05]], np.float32)


def test_embedding_is_passed_on_when_requested() -> None:
    assert [name for name, _ in EmbeddingAnswers().outputs(SCORES, {"embedding"})] == ["embedding"]
    assert list(EmbeddingAnswers().outputs(SCORES, set())) == []


def test_classification_gives_the_best_label_and_its_score() -> None:
    answers = ClassificationAnswers(["a", "b", "ç"])
    outputs = dict(answers.outputs(SCORES, {"label", "score", "scores"}))
    assert outputs["label"].tolist() == [[b"b"], [b"a"]]
    assert outputs["score"].shape == (2, 1)
    np.testing.assert_array_equal(outputs["score"][:, 0], SCORES.max(axis=1))
    np.testing.assert_array_equal(outputs["scores"], SCORES)
    assert [name for name, _ in answers.outputs(SCORES, {"score"})] == ["score"]


def test_labels_of_the_version_win_over_those_of_the_model(tmp_path: Path) -> None:
    version = tmp_path / "1"
    version.mkdir()
    (tmp_path / "labels.txt").write_text("old\nolder\n")
    assert read_labels(version, 2) == ["old", "older"]
    (version / "labels.txt").write_text("new\nnewer\n")
    assert read_labels(version, 2) == ["new", "newer"]
    with pytest.raises(ValueError, match="2 labels; the model gives 3 scores"):
        read_labels(version, 3)


def test_missing_labels(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels\.txt is missing"):
        read_labels(tmp_path / "1", 2)
