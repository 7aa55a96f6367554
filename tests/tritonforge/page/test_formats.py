"""Figures for people."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonforge.page.formats import cosine, figure, number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.99715, "0.9971"),
        (0.999964, "0.999964"),
        (0.99999998, "0.999999"),
        (1 - 1e-13, "1"),
        (1.0, "1"),
        (0.81, "0.8100"),
    ],
)
def test_cosine(value: float, expected: str) -> None:
    assert cosine(value) == expected


@given(st.floats(-1, 1))
def test_a_cosine_is_never_better_than_it_was(value: float) -> None:
    assert float(cosine(value)) <= value + 1e-9
    assert abs(float(cosine(value)) - value) < 2e-4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        (0, "0"),
        (12345.6, "12,346"),
        (3.14159, "3.142"),
        (2e-7, "2.00e-07"),
        (1234567, "1,234,567"),
    ],
)
def test_number(value: float | None, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "yes"),
        ("", "\N{EN DASH}"),
        ([], "\N{EN DASH}"),
        (["a", 1], "a, 1"),
        ({"a": 0.5}, "a 0.5"),
        (0.95, "0.9500"),
        ("x" * 500, "x" * 400 + "\N{HORIZONTAL ELLIPSIS} (500 characters)"),
    ],
)
def test_figure(value: Any, expected: str) -> None:
    assert figure(value) == expected
