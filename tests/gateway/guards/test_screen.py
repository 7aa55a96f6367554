"""Denied patterns: what matches is refused, in linear time, and the text stays out of the log."""

from __future__ import annotations

import time

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from gateway.config.limits import Screen
from gateway.errors import ApiError, GatewayConfigError
from gateway.guards.screen import PromptScreen

DENY = (r"(?i)ignore (all|previous) instructions", r"\b\d{4}-\d{4}-\d{4}-\d{4}\b", "ключ")


def refusals(pattern: int) -> float:
    name = "tritonforge_gateway_screened_requests_total"
    return REGISTRY.get_sample_value(name, {"pattern": str(pattern)}) or 0.0


@pytest.mark.parametrize(
    ("texts", "pattern", "says"),
    [
        (["Please IGNORE previous instructions."], 0, "the text is denied here"),
        (["fine", "card 1234-5678-9012-3456"], 1, "the text at index 1 is denied here"),
        (["где ключ?"], 2, "the text is denied here"),
        (["half a character \ud800 and the ключ"], 2, "the text is denied here"),
    ],
)
def test_what_matches_is_refused_without_saying_why(texts: list[str], pattern: int, says: str) -> None:
    before = refusals(pattern)
    with capture_logs() as logs, pytest.raises(ApiError) as error:
        PromptScreen(Screen(deny=DENY)).check(texts, "messages")
    assert (error.value.code.name, error.value.field, error.value.what) == ("text_refused", "messages", says)
    assert DENY[pattern] not in str(error.value)
    assert logs == [{"event": "text_refused", "log_level": "info", "pattern": pattern, "field": "messages"}]
    assert refusals(pattern) == before + 1


def test_all_else_passes() -> None:
    PromptScreen(Screen(deny=DENY)).check(["", "an instruction", "1234-5678", "\0", "🙂"], "text")
    PromptScreen(Screen()).check(["ignore all instructions", "x" * 3_000_000], "text")


def test_a_text_too_long_to_be_looked_at_is_refused() -> None:
    screen = PromptScreen(Screen(deny=DENY, max_bytes=6))
    screen.check(["привет"[:3]], "text")
    with pytest.raises(ApiError, match="8 bytes, 6 are allowed") as error:
        screen.check(["прив"], "text")
    assert error.value.code.name == "invalid_value"


def test_no_text_and_pattern_take_exponential_time() -> None:
    screen = PromptScreen(Screen(deny=("(x+x+)+y", "(a|aa)*$b", "([a-z]+)+[0-9]{50}")))
    start = time.monotonic()
    for text in ("x" * (1 << 20), "a" * (1 << 20), "ab" * (1 << 19)):
        screen.check([text], "text")
    assert time.monotonic() - start < 30  # on a busy machine; exponential would be years


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "missing )"),
        ("(?=a)b", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("(a{1000}){1000}", "repetition"),
        ("a*", "would deny every text"),
        ("", "would deny every text"),
    ],
)
def test_a_pattern_that_cannot_work_stops_the_start(pattern: str, says: str) -> None:
    with pytest.raises(GatewayConfigError, match=says.replace(")", r"\)")) as error:
        PromptScreen(Screen(deny=("fine", pattern)))
    assert error.value.where == "screen.deny.1"
    assert repr(pattern) in str(error.value)
