"""The words for faults of fields, over the real application."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import GatewayConfig
from tests.gateway.conftest import FacadeApp, RunningApp

JSON = {"content-type": "application/json"}


@pytest.fixture
async def running(facade_app: FacadeApp) -> Any:
    async with facade_app() as running:
        yield running


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("/embed", {}, "missing_field", "text"),
        ("/embed", {"text": 1}, "invalid_value", "text"),
        ("/embed", {"text": ""}, "invalid_value", "text"),
        ("/embed", {"text": None}, "invalid_value", "text"),
        ("/embed", {"text": "a", "user": 1}, "unknown_field", "user"),
        ("/embed", {"text": "a", "model": "x" * 129}, "invalid_value", "model"),
        ("/embed", {"text": "a", "model": "other"}, "model_not_found", "model"),
        ("/embed", {"text": "a", "model": "sort"}, "wrong_task", "model"),
        ("/embed", [], "invalid_value", None),
        ("/embed", "text", "invalid_value", None),
        ("/embed", None, "invalid_value", None),
        ("/embed/batch", {"texts": []}, "invalid_value", "texts"),
        ("/embed/batch", {"texts": "a"}, "invalid_value", "texts"),
        ("/embed/batch", {"texts": ["a", 1]}, "invalid_value", "texts.1"),
        ("/embed/batch", {"texts": ["a"] * 257}, "invalid_value", "texts"),
        ("/classify/batch", {"texts": ["a", ["b"]]}, "invalid_value", "texts.1"),
        ("/predict", {"text": "a", "max_length": 0}, "invalid_value", "max_length"),
        ("/predict", {"text": "a", "max_length": 2049}, "invalid_value", "max_length"),
        ("/predict", {"text": "a", "max_length": 1.5}, "invalid_value", "max_length"),
        ("/predict", {"text": "a", "max_length": "7"}, "invalid_value", "max_length"),
        ("/predict", {"text": "a", "max_length": True}, "invalid_value", "max_length"),
        ("/predict", {"text": "a", "temperature": 0.09}, "invalid_value", "temperature"),
        ("/predict", {"text": "a", "temperature": 2.1}, "invalid_value", "temperature"),
        ("/predict", {"text": "a", "top_p": 0}, "invalid_value", "top_p"),
        ("/predict", {"text": "a", "seed": -1}, "invalid_value", "seed"),
        ("/predict", {"text": "a", "stop": ["b", ""]}, "invalid_value", "stop.1"),
        ("/predict", {"text": "a", "stop": "b"}, "invalid_value", "stop"),
    ],
)
async def test_each_fault_is_named(
    running: RunningApp, path: str, body: Any, code: str, field: str | None
) -> None:
    answer = await running.client.post(path, content=json.dumps(body), headers=JSON)
    problem = answer.json()
    assert (problem["code"], problem["field"]) == (code, field), problem
    of_models = code in ("model_not_found", "wrong_task")
    assert answer.status_code == problem["status"] == (404 if of_models else 400)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["mend"]
    for jargon in ("Input", "pydantic", "str_type", "Value error", "body."):
        assert jargon not in answer.text


async def test_a_whole_number_may_have_a_point(running: RunningApp) -> None:
    answer = await running.client.post("/predict", json={"text": "a", "max_length": 2.0})
    assert answer.json()["tokens_generated"] == 2


async def test_the_number_of_further_faults_is_told(running: RunningApp) -> None:
    answer = await running.client.post("/predict", json={"text": "a", "top_p": 2, "a": 1, "b": 1})
    assert "2 more fault" in answer.json()["mend"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"])
async def test_other_media_types(running: RunningApp, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await running.client.post("/embed", content=b'{"text": "a"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_body_with_a_charset_is_taken(running: RunningApp) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    answer = await running.client.post("/embed", content='{"text": "ä"}'.encode(), headers=headers)
    assert answer.status_code == 200


async def test_a_body_that_is_too_large(facade_app: FacadeApp) -> None:
    async with facade_app(GatewayConfig.model_validate({"limits": {"max_body_bytes": 1000}})) as running:
        answer = await running.client.post("/embed", json={"text": "a" * 1000})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["text", "texts", "model", "max_length", "temperature", "top_p", "seed", "stop", "x"])
PATHS = st.sampled_from(
    ["/embed", "/embed/batch", "/classify", "/classify/batch", "/predict", "/predict/batch"]
)
# Sent by hand, for no client would: broken and misleading JSON.
RAW = st.binary(max_size=40) | st.builds(
    lambda name, value: b'{"' + name.encode("utf-8", "surrogatepass") + b'": ' + value + b"}",
    st.text(st.characters(), max_size=4),
    st.sampled_from([b"NaN", b"1e400", b'"\\ud83d"', b'"\xc3"', b"[" * 50, b"-0", b"1_0", b"0x1", b'"\x00"']),
)


@given(path=PATHS, body=st.dictionaries(NAMES, ODD, max_size=5))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_hostile_values(running: RunningApp, path: str, body: Any) -> None:
    answer = await running.client.post(path, json=body)
    if answer.status_code != 200:
        assert answer.status_code in (400, 404), answer.text
        assert {"code", "field", "mend"} <= answer.json().keys()


@given(path=PATHS, body=RAW)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_hostile_bytes(running: RunningApp, path: str, body: bytes) -> None:
    answer = await running.client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["mend"]
