"""What a request may say, and what its error says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from build_engines.generation import repository
from python_backends.generator.request import (
    INPUTS,
    MAX_STOP_BYTES,
    MAX_STOPS,
    BadRequestError,
    GenerationRequest,
    parse_request,
    read_inputs,
)

LIMIT = 1000


def texts(*values: str | bytes) -> Any:
    return np.array([v if isinstance(v, bytes) else v.encode() for v in values], dtype=np.object_)


def number(value: float, kind: Any) -> Any:
    return np.array([value], dtype=kind)


def parse(**inputs: Any) -> GenerationRequest:
    return parse_request({"text_input": texts("hi"), **inputs}, LIMIT)


def parse_json(values: Any) -> GenerationRequest:
    return parse(sampling_parameters=texts(values if isinstance(values, str) else json.dumps(values)))


def test_the_config_has_the_inputs_that_are_read() -> None:
    assert set(repository.INPUTS) == set(INPUTS)
    assert read_inputs(lambda name: texts("x") if name == "stop" else None).keys() == {"stop"}


def test_defaults_are_greedy_and_whole() -> None:
    found = parse()
    assert (found.text, found.messages, found.max_tokens) == ("hi", None, None)
    assert (found.stop, found.stream, found.echo) == ((), False, False)
    assert found.params.temperature == 0


def test_all_values_arrive_by_tensor_by_json_and_by_other_names() -> None:
    by_tensor = parse(
        max_tokens=number(7, np.int32),
        min_tokens=number(2, np.int32),
        temperature=number(0.5, np.float32),
        top_p=number(0.25, np.float32),
        top_k=number(-1, np.int32),
        seed=number(2**64 - 1, np.uint64),
        stop=texts("a", "b", "a"),
        ignore_eos=np.array([True]),
    )
    values = {"max_tokens": "7", "min_tokens": 2, "temperature": "0.5", "top_p": 0.25, "top_k": 0}
    by_json = parse_json({**values, "seed": 2**64 - 1, "stop": ["a", "b"], "ignore_eos": True})
    assert by_tensor == by_json
    assert by_tensor.params.seed == 2**64 - 1
    assert by_tensor.params.top_k == 0
    named = parse(random_seed=number(5, np.uint64), min_length=number(1, np.int32), stop_words=texts("x"))
    assert (named.params.seed, named.params.min_tokens, named.stop) == (5, 1, ("x",))


def test_a_tensor_goes_before_json() -> None:
    found = parse(max_tokens=number(3, np.int32), sampling_parameters=texts('{"max_tokens": 9}'))
    assert found.max_tokens == 3


def test_without_a_seed_each_request_gets_its_own() -> None:
    seeds = {parse(temperature=number(1, np.float32)).params.seed for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("name", "kind", "value", "says"),
    [
        ("max_tokens", np.int32, 0, "max_tokens is 0; it must be at least 1"),
        ("min_tokens", np.int32, -1, "at least 0"),
        ("temperature", np.float32, -0.5, "temperature is -0.5; it must be at least 0 and at most 2"),
        ("temperature", np.float32, 2.5, "at most 2"),
        ("temperature", np.float32, np.nan, "temperature is nan"),
        ("temperature", np.float32, np.inf, "temperature is inf"),
        ("top_p", np.float32, 0, "top_p is 0; it must be above 0 and at most 1"),
        ("top_p", np.float32, 1.5, "at most 1"),
        ("top_k", np.int32, -2, "top_k is -2"),
        ("repetition_penalty", np.float32, 0, "above 0"),
        ("presence_penalty", np.float32, 3, "at most 2"),
        ("frequency_penalty", np.float32, -3, "at least -2"),
    ],
)
def test_numbers_out_of_range(name: str, kind: Any, value: float, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        parse(**{name: number(value, kind)})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ({"beams": 4}, r"sampling_parameters\['beams'\] is unknown; allowed: max_tokens"),
        ({"max_tokens": 1.5}, "a whole number is needed"),
        ({"max_tokens": True}, "a whole number is needed"),
        ({"max_tokens": "many"}, "a whole number is needed"),
        ('{"max_tokens": 1' + "0" * 400 + "}", "at most 2147483647"),
        ({"top_k": "9" * 400}, "at most 2147483647"),
        ({"temperature": "nan"}, "temperature.* is nan"),
        ({"temperature": None}, "a number is needed"),
        ({"ignore_eos": 1}, "true or false"),
        ({"stop": 5}, "a string or a list of strings"),
        ({"stop": "\ud800"}, "is no character"),
        ({"seed": 1, "random_seed": 2}, "given under another name already"),
    ],
)
def test_wrong_sampling_parameters(values: Any, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        parse_json(values)


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        (texts(""), "empty string"),
        (texts(*map(str, range(MAX_STOPS + 1))), f"{MAX_STOPS} are allowed"),
        (texts("x" * (MAX_STOP_BYTES + 1)), f"more than {MAX_STOP_BYTES} bytes"),
        (texts(b"\xff"), "is not UTF-8"),
    ],
)
def test_wrong_stop_strings(stop: Any, says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        parse(stop=stop)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "neither was given"),
        ({"text_input": texts("a"), "messages": texts("[]")}, "both was given"),
        ({"text_input": texts(b"caf\xe9")}, "text_input is not UTF-8: .* at byte 3"),
        ({"text_input": texts("x" * (LIMIT + 1))}, f"{LIMIT} are allowed"),
        ({"text_input": texts("a", "b")}, "has 2 values; one is needed"),
        (
            {"text_input": texts("a"), "seed": number(1, np.uint64), "random_seed": number(1, np.uint64)},
            "mean",
        ),
        (
            {
                "text_input": texts("a"),
                "min_tokens": number(5, np.int32),
                "max_tokens": number(3, np.int32),
            },
            "min_tokens is 5, above max_tokens, 3",
        ),
        ({"text_input": texts("a"), "json_schema": texts("{")}, "json_schema is not JSON"),
        ({"text_input": texts("a"), "json_schema": texts("[]")}, "must be a JSON object"),
        ({"text_input": texts("a"), "json_schema": texts('{"type": "x"}')}, "json_schema.type"),
        ({"text_input": texts("a"), "json_schema": texts('{"const": "\\ud800"}')}, "is no character"),
    ],
)
def test_wrong_inputs(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequestError, match=says):
        parse_request(inputs, LIMIT)
