"""Lines of the backends; that they get into Triton's log, with their ids, is tested in tests/gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from python_backends import logs
from python_backends.logs import RequestLog, line, origin, place

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Logger:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log_info(self, text: str) -> None:
        self.lines.append(("info", text))

    def log_error(self, text: str) -> None:
        self.lines.append(("error", text))


class Request:
    def __init__(self, identity: str = "", **parameters: str) -> None:
        self._identity = identity
        self._parameters = json.dumps(parameters) if parameters else ""

    def request_id(self) -> str:
        return self._identity

    def parameters(self) -> str:
        return self._parameters


def test_values_are_quoted_where_they_need_it() -> None:
    assert line("loaded", model="a/b:1", left_out=None, empty="", width=384) == "loaded model=a/b:1 width=384"
    assert line("x", a='say "no"\n', b="é") == 'x a="say \\"no\\"\\n" b="\\u00e9"'


def test_a_request_is_named_by_its_header_else_by_its_own_id() -> None:
    given: dict[str, Any] = {"X-Request-Id": "r-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    assert origin(Request("mine", **given)) == {"request_id": "r-1", "trace_id": TRACE}
    assert origin(Request("mine", traceparent="none")) == {"request_id": "mine", "trace_id": ""}
    assert len(origin(Request("x" * 5000))["request_id"]) == 128


def test_a_fault_is_placed_without_its_message() -> None:
    try:
        json.loads("a secret")
    except ValueError as error:
        assert place(error).startswith("JSONDecodeError at decoder.py:")
    assert place(ValueError("a secret")) == "ValueError"


def test_a_flood_is_counted_and_other_events_have_a_bound_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = logs.time.monotonic()
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    logger = Logger()
    log = RequestLog(logger, "m")
    for number in range(500):
        log.refused(Request(str(number)), "too_large")
    assert len(logger.lines) == logs.BURST
    assert logger.lines[0] == ("info", "request_refused model=m reason=too_large request_id=0")
    log.failed(Request("e"), "out of memory")
    assert logger.lines[-1] == ("error", 'request_failed model=m error="out of memory" request_id=e')
    now += 1.5
    log.refused(Request("late"), "shape")
    log.refused(Request("later"), "shape")
    assert logger.lines[-1][1] == "request_refused model=m reason=shape request_id=late unlogged=480"
