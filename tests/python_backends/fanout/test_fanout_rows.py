from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backends.fanout.rows import EngineAnswerError, InvalidRequestError, join, split
from python_backends.settings import FanoutSettings, SettingsError

SETTINGS = FanoutSettings("toy_engine", "packed", "embedding", 4, 8, vocab_size=100, max_length=6)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=9))
@settings(deadline=None)
def test_rows_come_out_as_they_went_in(texts: list[list[int]]) -> None:
    width = max(map(len, texts))
    matrix = np.array([text + [-1] * (width - len(text)) for text in texts], np.int32)
    rows = split(matrix, SETTINGS)
    assert [row.tolist() for row in rows] == [[text] for text in texts]
    assert all(row.dtype == np.int32 and row.flags.c_contiguous for row in rows)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.zeros((2, 0), np.int32), r"int32 \[2, 0\]"),
        (np.zeros(3, np.int32), r"int32 \[3\]"),
        (np.zeros((1, 2), np.int64), r"int64 \[1, 2\]"),
        (np.array([[1], [-1], [-1]], np.int32), "row 1 of input_ids holds no token"),
        (np.zeros((1, 7), np.int32), "a sequence has 7 tokens; the model takes 6"),
        (np.array([[99], [100]], np.int32), "holds 100; the vocabulary ends at 99"),
    ],
)
def test_what_is_refused(matrix: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        split(matrix, SETTINGS)


def test_join_keeps_the_order() -> None:
    rows = [np.full((1, 4), number, np.float32) for number in range(5)]
    np.testing.assert_array_equal(join(rows, 4), np.repeat(np.arange(5, dtype=np.float32), 4).reshape(5, 4))


@pytest.mark.parametrize(
    "row", [np.zeros((2, 4), np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float16)]
)
def test_an_answer_of_another_shape_is_an_error(row: Any) -> None:
    with pytest.raises(EngineAnswerError, match=r"float32 \[1, 4\] was expected"):
        join([np.zeros((1, 4), np.float32), row], 4)


def config(**values: str) -> dict[str, Any]:
    parameters = {
        "engine_model": "toy_engine",
        "task": "classification",
        "width": "3",
        "vocab_size": "100",
        "max_length": "64",
        **values,
    }
    return {"name": "m", "parameters": {key: {"string_value": value} for key, value in parameters.items()}}


def test_settings() -> None:
    parsed = FanoutSettings.parse(config(concurrency="16", layout="padded"))
    assert parsed == FanoutSettings("toy_engine", "padded", "classification", 3, 16, 100, 64)
    assert parsed.output == "scores"
    assert FanoutSettings.parse(config(task="embedding")).output == "embedding"


@pytest.mark.parametrize(
    "change",
    [{"engine_model": ""}, {"width": "0"}, {"concurrency": "no"}, {"vocab_size": ""}, {"layout": "x"}],
)
def test_a_bad_setting_is_named(change: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=repr(next(iter(change)))):
        FanoutSettings.parse(config(**change))
