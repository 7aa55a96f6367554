"""Likelihood and greedy answers beside the reference's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.generation.answers import Answer
from build_engines.generation.fidelity import NO_TIE, Likelihood, Reference, compare_answers, read_texts
from python_backends.generator.protocol import FinishReason


def reference(scores: list[list[float]], rivals: list[list[int]]) -> Reference:
    empty: Any = np.zeros((0, 2))
    return Reference(
        prompts=[np.array([1])],
        rivals=[np.array(rivals, dtype=np.int32)],
        scores=[np.array(scores, dtype=np.float32)],
        texts=[],
        chosen=empty,
        top_ids=empty,
        top_log_probs=empty,
    )


@pytest.mark.parametrize(
    ("tokens", "same", "equal", "apart"),
    [
        ([5, 6, 7], 1, 3, 0.0),
        ([5, 9, 1], 0, 1, 0.5),  # what comes after the first difference says nothing
        ([5, 8, 7], 0, 1, NO_TIE),  # the reference never thought of it
        ([5, 6], 0, 2, NO_TIE),  # it ended too early
        ([5, 6, 7, 5], 0, 3, NO_TIE),  # it did not end
    ],
)
def test_answers_part_at_near_ties_or_they_are_wrong(
    tokens: list[int], same: int, equal: int, apart: float
) -> None:
    expected = reference([[4.0, 1.0], [4.0, 3.5], [4.0, 1.0]], [[5, 1], [6, 9], [7, 1]])
    answer = Answer(tokens, [0.0] * len(tokens), FinishReason.STOP)
    found = compare_answers([answer], expected)
    assert (found.same, found.tokens, found.prompts) == (same, equal, 1)
    assert found.apart == pytest.approx(apart)
    assert len(found.worst) == 1 - same


def saved_reference(toy: Any) -> Reference:
    assert toy.context is not None
    key = toy.context.keys["check-reference"]
    return Reference.load(toy.context.store.folder("check-reference", key) / "reference.npz")


def test_what_the_reference_keeps(toy: Any, tiny_generator: Path, tmp_path: Path) -> None:
    """Against transformers' own loss and its own greedy search."""
    import torch
    import transformers

    kept = saved_reference(toy)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_generator).eval()
    with torch.inference_mode():
        losses = [
            model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            for ids in (torch.from_numpy(text)[None] for text in kept.texts)
        ]
        answer = model.generate(
            torch.from_numpy(kept.prompts[0])[None], max_new_tokens=24, do_sample=False, pad_token_id=0
        )
    assert -kept.chosen.sum() == pytest.approx(sum(losses), rel=1e-4)
    assert kept.rivals[0][:, 0].tolist() == answer[0, len(kept.prompts[0]) :].tolist()
    kept.save(tmp_path / "again.npz")
    again = Reference.load(tmp_path / "again.npz")
    for name, value in vars(kept).items():
        np.testing.assert_equal(getattr(again, name), value)


def test_another_model_is_told(
    toy: Any, tiny_family: Callable[..., Path], new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    """The likelihoods of a graph of other weights, held against the toy's reference."""
    kept = saved_reference(toy)
    assert toy.context is not None and toy.context.exported is not None
    mine = read_texts(toy.context.exported, {"INFERENCE_PRECISION_HINT": "f32"}, kept)
    assert mine.perplexity == pytest.approx(mine.reference_perplexity, rel=1e-5)
    assert mine.places == sum(len(text) - 1 for text in kept.texts)
    other = new_builder(tiny_family("qwen2"), tmp_path)
    other(until="export")
    assert other.context is not None and other.context.exported is not None
    theirs = read_texts(other.context.exported, {"INFERENCE_PRECISION_HINT": "f32"}, kept)
    assert theirs.kl > 0.5 and theirs.top1 < 0.5


def test_no_numbers_are_none_in_reports() -> None:
    found = Likelihood(float("nan"), 3.0, float("inf"), 0.0, 5).figures()
    assert found["perplexity"] is None and found["kl"] is None and found["perplexity_rise"] is None
    assert found["reference_perplexity"] == 3.0
