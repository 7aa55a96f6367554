"""Rows of several sequences: each token once, filler that the model can take, and few shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from python_backends.packing import flatten, pack
from python_backends.windows import WindowRun, feed_windows, plan_windows

lengths_of_runs = st.lists(st.integers(1, 700), min_size=1, max_size=40)


@given(lengths=lengths_of_runs, slots=st.sampled_from([64, 512, 2048]))
@example(lengths=[1], slots=512)
@example(lengths=[64] * 9, slots=512)
@example(lengths=[65, 63], slots=512)
@example(lengths=[700, 1], slots=64)
def test_each_sequence_has_one_place(lengths: list[int], slots: int) -> None:
    runs = plan_windows(lengths, slots)
    assert sorted(index for run in runs for row in run.rows for index in row) == list(range(len(lengths)))
    for run in runs:
        assert all(sum(lengths[index] for index in row) <= run.width for row in run.rows)
        assert run.slots <= slots or len(run.rows) == 1


@given(lengths=lengths_of_runs)
@example(lengths=[5])
@example(lengths=[3, 61, 2])
def test_a_feed_holds_every_token_and_tells_where_the_answers_lie(lengths: list[int]) -> None:
    texts = [np.full((1, length), number + 1, np.int32) for number, length in enumerate(lengths)]
    batch = flatten(texts)
    inputs = pack(batch, np.arange(batch.count))
    for run in plan_windows(lengths):
        feed, answers = feed_windows(run, inputs)
        ids, ends = feed["input_ids"], feed["cu_seqlens"]
        assert {name: array.dtype for name, array in feed.items()} == dict.fromkeys(inputs, np.int32)
        assert feed["max_seqlen"].size == run.width
        assert ids.size == ends[-1] == run.slots
        sizes = np.diff(ends)
        longest = max(lengths[index] for row in run.rows for index in row)
        assert sizes.min() > 0
        assert sizes.max() == longest, "filler may not be longer than what the model was asked for"
        placed = [index for row in run.rows for index in row]
        assert [sizes[answer] for answer in answers] == [lengths[index] for index in placed]
        for index, answer in zip(placed, answers, strict=True):
            assert set(ids[ends[answer] : ends[answer + 1]]) == {index + 1}
        filler = np.delete(np.arange(sizes.size), answers)
        assert not any(ids[ends[i] : ends[i + 1]].any() for i in filler)
        starts_of_rows = np.arange(0, run.slots, run.width)
        assert np.isin(starts_of_rows, ends).all(), "no sequence may lie in two rows"


def test_long_sequences_open_wide_rows_and_short_ones_fill_them() -> None:
    (run,) = plan_windows([120, 5, 3])
    assert run == WindowRun(rows=[[0, 1, 2]], width=128)


def test_a_run_is_as_wide_as_its_fullest_row_needs() -> None:
    (run,) = plan_windows([9])
    assert run.width == 12
    (run,) = plan_windows([300])
    assert run.width == 320
    assert plan_windows([]) == []


@pytest.mark.parametrize(("texts", "most"), [(16, 0.12), (64, 0.06)])
def test_full_batches_leave_few_slots_empty(texts: int, most: float) -> None:
    rng = np.random.default_rng(0)
    used = slots = 0
    shapes = set()
    for _ in range(200):
        lengths = rng.choice([8, 24, 64, 192], p=[0.3, 0.4, 0.2, 0.1], size=texts)
        lengths = (lengths * rng.uniform(0.85, 1.15, size=texts)).astype(int).tolist()
        runs = plan_windows(lengths)
        used += sum(lengths)
        slots += sum(run.slots for run in runs)
        shapes |= {(len(run.rows), run.width) for run in runs}
    assert slots / used - 1 < most
    assert len(shapes) < 60
