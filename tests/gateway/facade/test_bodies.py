"""What is read as JSON, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.limits import Limits
from gateway.errors import ApiError
from gateway.facade.bodies import WIDEST, check_text, check_texts, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_json_is_read(value: Any) -> None:
    assert parse_json(orjson.dumps(value), Limits()) == value


@given(st.binary())
def test_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_json(data, Limits())
    except ApiError as error:
        assert error.code.http == 400


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "a"} {"text": "b"}',
        b'{"text": "a", "text": "b"}',
        b'{"a": [{"b": 1, "\\u0062": 2}]}',
        b"{'text': 'a'}",
        '{"text": "a"}'.encode("utf-16"),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(data, Limits())
    assert caught.value.code.name == "invalid_json"
    assert caught.value.mend


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth(opening: str) -> None:
    def nested(levels: int) -> str:
        closing = "]" if opening == "[" else "}"
        return opening * levels + "1" + closing * levels

    limits = Limits(max_json_depth=5)
    assert parse_json(nested(5), limits) is not None
    for levels in (6, 900, 100_000):
        with pytest.raises(ApiError) as caught:
            parse_json(nested(levels), limits)
        assert caught.value.code.name in ("too_deep", "invalid_json")  # orjson has a bound of its own


@pytest.mark.parametrize(
    "value",
    [[1] * (WIDEST + 1), {str(i): 1 for i in range(WIDEST + 1)}, [[[]] * (WIDEST - 1), [[]] * 9]],
    ids=["list", "object", "lists"],
)
def test_width(value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(json.dumps(value), Limits())
    assert caught.value.code.name == "too_wide"


def test_texts_may_be_as_many_as_configured() -> None:
    limits = Limits(max_texts=WIDEST + 5)
    check_texts(parse_json(json.dumps(["a"] * (WIDEST + 5)), limits), limits)


def test_bounds_of_texts_are_bytes_and_inclusive() -> None:
    limits = Limits(max_texts=2, max_text_bytes=6)
    check_text("äöü", limits)
    check_texts(["abcdef", "äöü"], limits)
    with pytest.raises(ApiError) as caught:
        check_text("äöüs", limits)
    assert caught.value.field == "text"
    with pytest.raises(ApiError) as caught:
        check_texts(["a", "äöüs"], limits)
    assert caught.value.field == "texts.1"
    with pytest.raises(ApiError) as caught:
        check_texts(["a"] * 3, limits)
    assert (caught.value.field, caught.value.code.http) == ("texts", 400)
