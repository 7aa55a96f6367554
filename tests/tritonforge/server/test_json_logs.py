"""Lines of tritonserver 2.51.0 as JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from datetime import datetime
from typing import Any

import pytest

from python_backends.logs import line
from tritonforge.server.json_logs import JsonFormatter, JsonLines
from tritonforge.server.levels import level_of
from tritonforge.server.logs import LogPump

STAMP = "1125 21:49:04.804946 6280"


def parsed(*lines: str) -> list[dict[str, Any]]:
    turn = JsonLines()
    return [json.loads(made) for each in lines for made in turn(each)] + [json.loads(m) for m in turn.end()]


def test_a_line_of_triton() -> None:
    (event,) = parsed(f'E{STAMP} server.cc:241] "a \\"quoted\\" word\\nand a second line"')
    time = datetime.fromisoformat(event.pop("time"))
    assert time.tzinfo is not None
    assert (time.month, time.day, time.hour, time.microsecond) == (11, 25, 21, 804_000)
    assert event == {
        "level": "error",
        "component": "triton",
        "logger": "server.cc:241",
        "event": 'a "quoted" word\nand a second line',
    }


def test_the_request_that_triton_names() -> None:
    named, unknown = parsed(
        f'W{STAMP} infer_request.cc:132] "[request id: r-1] too late"',
        f'I{STAMP} infer_request.cc:132] "[request id: <id_unknown>] too late"',
    )
    assert (named["request_id"], named["event"], named["level"]) == ("r-1", "too late", "warning")
    assert (unknown.get("request_id"), unknown["event"]) == (None, "too late")


def test_what_a_backend_logs_becomes_fields() -> None:
    said = line(
        "request_failed", model="m", error='say "no"\nnow', request_id="r 1", time="forged", unlogged=3
    )
    (event,) = parsed(f"E{STAMP} model.py:88] {json.dumps(said)}")
    assert event.pop("time") != "forged"
    assert event == {
        "level": "error",
        "component": "backend",
        "logger": "model.py:88",
        "event": "request_failed",
        "model": "m",
        "error": 'say "no"\nnow',
        "request_id": "r 1",
        "unlogged": "3",
    }


def test_a_backend_that_logs_words_keeps_them() -> None:
    (event,) = parsed(f'I{STAMP} model.py:7] "loaded x=1, then more"')
    assert event["event"] == "loaded x=1, then more"
    assert "x" not in event


def test_a_table_is_one_event_and_so_is_other_output() -> None:
    table, after, output = parsed(
        f"I{STAMP} server.cc:674] ",
        "+-------+",
        "| Model |",
        "+-------+",
        "",
        f'I{STAMP} main.cc:1] "after"',
        "Signal (15) received.",
    )
    assert table["event"] == "+-------+\n| Model |\n+-------+"
    assert after["event"] == "after"
    assert (output["event"], output["logger"]) == ("Signal (15) received.", "output")


def test_a_table_at_the_very_end_is_not_lost() -> None:
    reader, writer = os.pipe()
    sink = io.BytesIO()
    pump = LogPump(os.fdopen(reader, "rb"), sink, lines=JsonLines())
    with os.fdopen(writer, "wb") as out:
        out.write(f"I{STAMP} server.cc:674] \n| ".encode() + b"\xff |\n")
    pump.join(60)
    assert json.loads(sink.getvalue())["event"] == "| \ufffd |"
    assert pump.tail()[-1] == "| \ufffd |"


def test_our_own_records_have_the_same_fields() -> None:
    try:
        raise OSError("away")
    except OSError:
        record = logging.LogRecord(
            "tritonforge.x", logging.ERROR, "", 1, "%s failed", ("it",), sys.exc_info()
        )
    event = json.loads(JsonFormatter("serve").format(record))
    assert (event["level"], event["component"], event["logger"]) == ("error", "serve", "tritonforge.x")
    assert event["event"].startswith("it failed\nTraceback")
    assert datetime.fromisoformat(event["time"]).tzinfo is not None


@pytest.mark.parametrize(
    ("verbose", "info", "warning", "error", "level"),
    [
        (1, False, False, False, logging.DEBUG),
        (0, True, True, True, logging.INFO),
        (0, False, True, True, logging.WARNING),
        (0, False, False, True, logging.ERROR),
        (0, False, False, False, logging.CRITICAL),
    ],
)
def test_our_level_is_tritons(verbose: int, info: bool, warning: bool, error: bool, level: int) -> None:
    settings = {"log_verbose_level": verbose, "log_info": info, "log_warning": warning, "log_error": error}
    assert level_of(settings) == level
