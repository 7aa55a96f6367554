"""Rows that are off by a known amount, against the recipe's thresholds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.check.parity import Parity
from build_engines.check.speed import Speed
from build_engines.gate.accuracy import neighbour_overlap, shorten
from build_engines.gate.judge import Evidence, judge
from build_engines.gate.verdict import GateCheck, Verdict
from build_engines.spec import ModelSpec
from tritonforge.recipe import Recipe

EMBEDDING = ModelSpec("embedding", "mean", True, "softmax", "cls", (), 16, 64, 50, 0)
LABELS = ModelSpec("classification", "cls", False, "softmax", "cls", ("calm", "glad", "sad"), 3, 64, 50, 0)
TEXTS = [f"text number {i}, and what it says" for i in range(200)]


def rows(seed: int = 0, width: int = 16) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).standard_normal((len(TEXTS), width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def noisy(clean: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """Each row turned away from itself by an angle of this cosine."""
    noise = rows(1, clean.shape[1])
    noise -= (noise * clean).sum(axis=1, keepdims=True) * clean
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return (cosine * clean + np.sqrt(1 - cosine**2) * noise).astype(np.float32)


def recipe(**gate: Any) -> Recipe:
    return Recipe.model_validate({"name": "toy", "model": "unused", "gate": gate})


def checks(evidence: Evidence, spec: ModelSpec = EMBEDDING, **gate: Any) -> dict[str, GateCheck]:
    return {check.name: check for check in judge(evidence, spec, recipe(**gate)).checks}


def evidence(found: NDArray[np.float32], clean: NDArray[np.float32], **more: Any) -> Evidence:
    return Evidence("openvino-int8", "int8", TEXTS, found, clean, **more)


def outcomes(found: dict[str, GateCheck]) -> dict[str, str]:
    return {name: check.outcome for name, check in found.items()}


# -- embeddings


def test_the_same_rows_pass() -> None:
    found = checks(evidence(rows(), rows()))
    assert found["accuracy.mean_cosine"].figure == pytest.approx(1)
    assert found["accuracy.overlap"].figure == 1
    assert {check.outcome for name, check in found.items() if name.startswith("accuracy.")} == {"pass"}


@pytest.mark.parametrize(("cosine", "outcome"), [(0.9951, "pass"), (0.9949, "fail")])
def test_the_threshold_is_where_it_says(cosine: float, outcome: str) -> None:
    check = checks(evidence(noisy(rows(), cosine), rows()))["accuracy.mean_cosine"]
    assert check.outcome == outcome
    assert check.figure == pytest.approx(cosine, abs=1e-5)
    assert check.threshold == 0.995


def test_one_bad_text_is_named() -> None:
    clean = rows()
    found = clean.copy()
    found[17] = -found[17]
    result = checks(evidence(found, clean))
    assert result["accuracy.mean_cosine"].outcome == "fail"
    assert result["accuracy.min_cosine"].worst[0] == {"text": TEXTS[17], "cosine": pytest.approx(-1)}
    assert result["accuracy.overlap"].worst[0]["text"] == TEXTS[17]
    assert "calibration" in result["accuracy.min_cosine"].mend


def test_nan_in_one_text_fails_and_fits_json() -> None:
    found = rows()
    found[3, 2] = np.nan
    verdict = judge(evidence(found, rows()), EMBEDDING, recipe())
    assert "accuracy.min_cosine" in {check.name for check in verdict.failures}
    text = json.dumps(verdict.as_dict(), allow_nan=False)
    assert Verdict.from_dict(json.loads(text)).as_dict() == verdict.as_dict()


def test_length_of_the_vectors_does_not_matter_to_cosines() -> None:
    assert checks(evidence(rows() * 3, rows()))["accuracy.mean_cosine"].outcome == "pass"


def test_overlap_counts_what_a_plain_search_counts() -> None:
    clean, found = rows(), noisy(rows(), 0.97)

    def plain(matrix: NDArray[np.float32], row: int) -> set[int]:
        similar = matrix.astype(float) @ matrix[row].astype(float)
        similar[row] = -2
        return set(np.argsort(-similar)[:10].tolist())

    expected = [len(plain(clean, i) & plain(found, i)) / 10 for i in range(len(TEXTS))]
    assert neighbour_overlap(found, clean, 10) == pytest.approx(expected)
    assert 0.3 < np.mean(expected) < 0.95


def test_equal_neighbours_may_change_places() -> None:
    """Ten texts, each eight times: which of its twins are nearest is chance, and costs nothing."""
    clean = np.repeat(rows()[:10], 8, axis=0)
    found = clean + 1e-4 * rows(1)[:80]
    assert neighbour_overlap(found, clean, 3).min() == 1


@pytest.mark.parametrize(("texts", "outcome"), [(2, "skipped"), (3, "pass"), (12, "pass")])
def test_few_texts(texts: int, outcome: str) -> None:
    few = replace(evidence(rows()[:texts], rows()[:texts]), texts=TEXTS[:texts])
    assert checks(few)["accuracy.overlap"].outcome == outcome


# -- classification


def scores(seed: int = 0) -> NDArray[np.float32]:
    raw = np.exp(np.random.default_rng(seed).standard_normal((len(TEXTS), 3)) * 2)
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def test_flipped_labels() -> None:
    found = scores()
    found[5] = np.roll(found[5], 1)
    result = checks(evidence(found, scores()), LABELS)
    assert result["accuracy.agreement"].figure == pytest.approx(1 - 1 / len(TEXTS))
    assert result["accuracy.agreement"].outcome == "pass"
    assert result["accuracy.agreement"].worst[0]["text"] == TEXTS[5]
    assert result["accuracy.score_difference"].outcome == "skipped"
    assert result["accuracy.score_difference"].figure == pytest.approx(
        float(np.abs(found[5] - scores()[5]).max())
    )
    assert checks(evidence(found, scores()), LABELS, agreement=1.0)["accuracy.agreement"].outcome == "fail"


def test_several_labels_at_once_must_all_agree() -> None:
    spec = replace(LABELS, activation="sigmoid")
    clean = np.full((len(TEXTS), 3), 0.8, np.float32)
    found = clean.copy()
    found[0, 2] = 0.4
    check = checks(evidence(found, clean), spec)["accuracy.agreement"]
    assert check.figure == pytest.approx(1 - 1 / len(TEXTS))


# -- no text


PARITY = Parity(0.1, 0.96, 0.99, True, 12, 1, 64)


def test_without_text_random_tokens_are_judged_and_the_report_says_so() -> None:
    found = checks(Evidence("openvino-int8", "int8", parity=PARITY))
    assert outcomes(found)["accuracy.mean_cosine"] == outcomes(found)["accuracy.min_cosine"] == "fail"
    assert "names no text" in found["accuracy.mean_cosine"].detail
    assert "calibration.texts" in found["accuracy.mean_cosine"].mend


# -- pruning


def pruned(precision: Any, found: float, **more: Any) -> dict[str, GateCheck]:
    clean = rows()
    given = Evidence("onnxruntime", precision, TEXTS, noisy(clean, found), clean, pruned=True, **more)
    return checks(given)


@pytest.mark.parametrize(("cosine", "outcome"), [(0.991, "pass"), (0.989, "fail")])
def test_a_pruned_model_is_held_to_its_own_threshold(cosine: float, outcome: str) -> None:
    found = pruned("fp32", cosine)
    assert found["pruning.mean_cosine"].outcome == outcome
    assert found["pruning.mean_cosine"].threshold == 0.99
    assert found["pruning.min_cosine"].outcome == found["pruning.overlap"].outcome == "skipped"
    assert found["pruning.overlap"].figure is not None
    assert not any(name.startswith("accuracy.") for name in found)
    assert "prune.sparsity" in found["pruning.mean_cosine"].mend


def test_quantization_on_top_is_judged_against_the_pruned_model() -> None:
    unquantized = noisy(rows(), 0.991)
    found = pruned("int8", 0.991, unquantized=unquantized)
    assert found["accuracy.mean_cosine"].figure == pytest.approx(1)
    assert found["accuracy.mean_cosine"].outcome == "pass"
    assert found["pruning.mean_cosine"].threshold == pytest.approx(0.99 * 0.995)
    assert pruned("int8", 0.991, unquantized=rows())["accuracy.mean_cosine"].outcome == "fail"


# -- speed


def speed(rate: float) -> Speed:
    return Speed(sequences_per_second=rate, tokens_per_second=rate, single_ms=1, threads=1)


@pytest.mark.parametrize(
    ("precision", "rate", "outcome"),
    [("int8", 99, "fail"), ("int8", 100, "pass"), ("int8", 240, "pass"), ("fp32", 99, "skipped")],
)
def test_an_engine_slower_than_float32(precision: Any, rate: float, outcome: str) -> None:
    given = Evidence("toy", precision, parity=PARITY, speed=speed(rate), baseline=speed(100))
    check = checks(given)["speed"]
    assert check.outcome == outcome
    if outcome != "skipped":
        assert check.figure == pytest.approx(rate / 100)
        assert "in float32" in check.detail


def test_a_speedup_may_be_asked_for() -> None:
    given = Evidence("toy", "int8", parity=PARITY, speed=speed(140), baseline=speed(100))
    assert checks(given, min_speedup=1.5)["speed"].outcome == "fail"


def test_examples_are_short_and_on_one_line() -> None:
    assert shorten("a\nb  c") == "a b c"
    assert len(shorten("word " * 100)) == 100
