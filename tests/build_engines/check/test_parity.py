from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from build_engines.check.parity import check_parity, parity_sequences
from build_engines.check.samples import mixed_lengths, parity_lengths, random_sequences
from build_engines.engines import CompiledEngine
from build_engines.spec import ModelSpec
from tritonforge.errors import ParityError
from tritonforge.recipe import LengthShare

SPEC = ModelSpec("embedding", "mean", False, "softmax", "cls", (), 4, 700, 50, 7)
TABLE = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)


class MeanRunner:
    """Means of an embedding table; ``spoil`` makes it wrong in one way."""

    threads = 1
    ragged = False
    filler = 0

    def __init__(self, spoil: Callable[[NDArray[np.float32]], None] = lambda rows: None) -> None:
        self.spoil = spoil

    def run(self, inputs: dict[str, NDArray[np.int32]]) -> dict[str, Any]:
        bounds = inputs["cu_seqlens"]
        rows = np.stack([TABLE[inputs["input_ids"][a:b]].mean(axis=0) for a, b in pairwise(bounds)])
        self.spoil(rows)
        return {"embedding": rows}


def compiled(precision: Any) -> CompiledEngine:
    return CompiledEngine("onnxruntime", precision, "packed", Path(), "model.onnx")


SEQUENCES = parity_sequences(SPEC, parity_lengths(700))
REFERENCE = np.stack([TABLE[ids].mean(axis=0) for ids in SEQUENCES])


def test_a_right_engine() -> None:
    parity = check_parity(MeanRunner(), compiled("fp32"), SPEC, SEQUENCES, REFERENCE)
    assert parity.max_difference < 1e-6
    assert parity.min_cosine > 0.99999
    assert (parity.shortest, parity.longest, parity.sequences) == (1, 700, len(SEQUENCES))


def spoil_one(rows: NDArray[np.float32]) -> None:
    rows[-1, 0] += 2e-4


def turn(rows: NDArray[np.float32]) -> None:
    rows[0] = -rows[0]


def poison(rows: NDArray[np.float32]) -> None:
    rows[0, 0] = np.nan


def swap(rows: NDArray[np.float32]) -> None:
    rows[:] = rows[::-1].copy()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(spoil_one, "max difference 2.0"), (swap, "max difference"), (poison, "NaN or Inf")],
)
def test_a_wrong_engine(spoil: Callable[..., None], says: str) -> None:
    with pytest.raises(ParityError, match=says) as caught:
        check_parity(MeanRunner(spoil), compiled("fp32"), SPEC, SEQUENCES, REFERENCE)
    assert caught.value.where == "onnxruntime fp32"
    assert caught.value.mend


@pytest.mark.parametrize("spoil", [spoil_one, swap, turn, poison])
def test_what_other_precisions_lose_is_told_and_judged_elsewhere(spoil: Callable[..., None]) -> None:
    parity = check_parity(MeanRunner(spoil), compiled("int8"), SPEC, SEQUENCES, REFERENCE)
    assert parity.max_difference > 1e-4
    assert parity.min_cosine < 1
    assert parity.finite == (spoil is not poison)
    if spoil is poison:
        assert parity.min_cosine == -1


@given(st.integers(1, 9000))
def test_parity_lengths_reach_from_one_token_to_the_longest(longest: int) -> None:
    lengths = parity_lengths(longest)
    assert lengths == sorted(set(lengths))
    assert (lengths[0], lengths[-1]) == (1, longest)


@given(st.integers(2, 300), st.data())
def test_random_ids_are_of_the_vocabulary_and_never_padding(vocabulary: int, data: st.DataObject) -> None:
    padding = data.draw(st.integers(0, vocabulary - 1))
    spec = ModelSpec("embedding", "mean", False, "", "cls", (), 4, 64, vocabulary, padding)
    lengths = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=5))
    sequences = random_sequences(spec, lengths)
    assert [len(ids) for ids in sequences] == lengths
    ids = np.concatenate(sequences)
    assert ids.dtype == np.int32
    assert ids.min() >= 0 and ids.max() < vocabulary
    assert padding not in ids


def test_mixed_lengths_follow_the_mix() -> None:
    mix = [LengthShare(tokens=8, weight=3), LengthShare(tokens=500, weight=1)]
    drawn = mixed_lengths(mix, 4000, max_length=128)
    assert set(drawn) == {8, 128}
    assert 0.7 < drawn.count(8) / 4000 < 0.8
    assert drawn == mixed_lengths(mix, 4000, max_length=128)
