from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.packing import FILLER, flatten, pack, pad, plan_runs, scatter

lengths_lists = st.lists(st.integers(1, 300), min_size=1, max_size=60)
budgets = st.integers(1, 2000)


@st.composite
def requests(draw: st.DrawFn) -> list[list[list[int]]]:
    """Requests of 1 to 5 texts of 1 to 9 tokens."""
    text = st.lists(st.integers(0, 1000), min_size=1, max_size=9)
    return draw(st.lists(st.lists(text, min_size=1, max_size=5), min_size=1, max_size=12))


def rectangle(texts: list[list[int]]) -> np.ndarray:
    matrix = np.full((len(texts), max(map(len, texts))), FILLER, np.int32)
    for row, text in zip(matrix, texts, strict=True):
        row[: len(text)] = text
    return matrix


@given(requests())
def test_flatten_keeps_every_token_in_order(batch: list[list[list[int]]]) -> None:
    texts = [text for request in batch for text in request]
    joined = flatten([rectangle(request) for request in batch])
    assert joined.tokens.tolist() == [token for text in texts for token in text]
    assert joined.lengths.tolist() == [len(text) for text in texts]
    assert joined.offsets.dtype == joined.tokens.dtype == np.int32


@given(lengths_lists, budgets, st.booleans())
def test_plan_holds_each_sequence_once_and_keeps_the_budget(
    lengths: list[int], budget: int, padded: bool
) -> None:
    array = np.array(lengths)
    runs = plan_runs(array, budget, padded=padded)
    assert sorted(np.concatenate(runs).tolist()) == list(range(len(lengths)))
    for run in runs:
        size = run.size * array[run].max() if padded else array[run].sum()
        assert size <= budget or run.size == 1
        assert (np.diff(run) > 0).all()


@given(lengths_lists, st.sampled_from([1.1, 1.5]), st.sampled_from([0, 64, 256]))
def test_plan_bounds_the_waste_of_runs_that_are_not_small(
    lengths: list[int], max_waste: float, small: int
) -> None:
    array = np.array(lengths)
    for run in plan_runs(array, 10**6, max_waste=max_waste, small_run_tokens=small):
        tokens = array[run].sum()
        # The last sequence may join a run that was still small and lift it over the bound.
        if tokens - array[run].max() >= small and run.size > 1:
            assert run.size * array[run].max() <= max_waste * tokens


@given(requests(), st.integers(1, 60))
def test_packed_runs_give_rows_back_in_request_order(batch: list[list[list[int]]], budget: int) -> None:
    joined = flatten([rectangle(request) for request in batch])
    runs = plan_runs(joined.lengths, budget, small_run_tokens=0)
    results = []
    for run in runs:
        feed = pack(joined, run)
        bounds, ids = feed["cu_seqlens"], feed["input_ids"]
        assert feed["max_seqlen"].shape == (np.diff(bounds).max(),)
        assert bounds[0] == 0
        assert bounds[-1] == ids.size
        # First and last token and their number identify a text well enough to see a mix-up.
        results.append(np.stack([ids[bounds[:-1]], ids[bounds[1:] - 1], np.diff(bounds)], 1).astype("f4"))
    rows = scatter(runs, results, joined.count)
    expected = [[text[0], text[-1], len(text)] for request in batch for text in request]
    assert rows.tolist() == expected


@given(requests(), st.integers(1, 60))
def test_padded_runs_hold_the_same_tokens(batch: list[list[list[int]]], budget: int) -> None:
    texts = [text for request in batch for text in request]
    joined = flatten([rectangle(request) for request in batch])
    for run in plan_runs(joined.lengths, budget, padded=True):
        feed = pad(joined, run, pad_token_id=7)
        for index, ids, mask in zip(run, feed["input_ids"], feed["attention_mask"], strict=True):
            size = len(texts[index])
            assert ids.tolist() == texts[index] + [7] * (ids.size - size)
            assert mask.tolist() == [1] * size + [0] * (ids.size - size)


def test_a_batch_that_fits_is_neither_reordered_nor_copied() -> None:
    joined = flatten([np.arange(9, dtype=np.int32).reshape(3, 3), np.array([[1, 2]], np.int32)])
    (run,) = plan_runs(joined.lengths, 100)
    feed = pack(joined, run)
    assert feed["input_ids"] is joined.tokens
    assert feed["cu_seqlens"].tolist() == [0, 3, 6, 9, 11]
    result = np.zeros((4, 2), np.float32)
    assert scatter([run], [result], 4) is result


def test_neighbours_are_a_view() -> None:
    joined = flatten([np.arange(12, dtype=np.int32).reshape(4, 3)])
    feed = pack(joined, np.array([1, 2]))
    assert np.shares_memory(feed["input_ids"], joined.tokens)
    assert feed["input_ids"].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("matrix", [np.zeros((2, 0), np.int32), np.full((2, 3), FILLER, np.int32)])
def test_rows_without_a_token_have_length_zero(matrix: np.ndarray) -> None:
    joined = flatten([np.array([[5]], np.int32), matrix])
    assert joined.lengths.tolist() == [1, 0, 0]
    assert joined.offsets.tolist() == [0, 1, 1, 1]


def test_no_sequences_no_runs() -> None:
    assert plan_runs(np.array([], np.int64), 10) == []
