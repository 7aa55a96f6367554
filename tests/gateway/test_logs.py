"""Lines of the gateway's own processes; faults are logged without what callers sent."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PREAMBLE = f"""
import logging, structlog
from gateway.logs import configure_logs, note_request, set_level
from gateway.tracing import enter

configure_logs("facade", "info", "STYLE", worker=1)
note_request("r-1")
enter("00-{TRACE}-00f067aa0ba902b7-01")
logger = structlog.get_logger("gateway.tests")

def handle(text):
    try:
        {{}}[text]
    except KeyError:
        raise RuntimeError(f"broken by {{text}}")
"""


def run(script: str, style: str = "json", *, status: int = 0) -> str:
    command = [sys.executable, "-c", PREAMBLE.replace("STYLE", style) + script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert not done.stdout
    return done.stderr


def lines(script: str, *, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(script, status=status).splitlines()]


def test_every_line_has_the_common_fields() -> None:
    ours, library = lines(
        'logger.info("opened", model="m"); logging.getLogger("uvicorn.error").error("%s", 1)'
    )
    time = datetime.fromisoformat(ours.pop("time"))
    assert time.tzinfo is not None
    assert ours == {
        "level": "info",
        "component": "facade",
        "worker": 1,
        "logger": "gateway.tests",
        "event": "opened",
        "request_id": "r-1",
        "trace_id": TRACE,
        "model": "m",
    }
    assert (library["event"], library["level"], library["logger"]) == ("1", "error", "uvicorn.error")
    assert library["request_id"] == "r-1"


def test_levels_change_while_it_runs() -> None:
    found = lines(
        """
logger.debug("no")
set_level("debug"); logger.debug("yes")
set_level("error"); logger.warning("no")
logging.getLogger("httpx").info("no")
"""
    )
    assert [line["event"] for line in found] == ["yes"]


FAULT = """
try:
    handle("a secret " + "of the caller")
except RuntimeError as error:
    logger.error("fault", path="/embed", exc_info=error)
"""


def test_a_fault_tells_where_but_not_what() -> None:
    text = run(FAULT)
    line = json.loads(text)
    assert (line["event"], line["level"], line["path"]) == ("fault", "error", "/embed")
    assert "in handle" in line["exception"]
    assert line["exception"].index("KeyError") < line["exception"].index("RuntimeError")
    assert "secret of the caller" not in text


@pytest.mark.parametrize("style", ["json", "text"])
def test_at_debug_it_tells_what_too(style: str) -> None:
    assert "broken by a secret of the caller" in run(f'set_level("debug"){FAULT}', style)


def test_text_is_for_people() -> None:
    text = run('logger.warning("pool_unreachable", pool="local")' + FAULT, "text")
    assert "pool_unreachable" in text
    assert "pool=local" in text
    assert "in handle" in text
    assert "secret of the caller" not in text


def test_the_last_words_of_a_process_are_a_line_too() -> None:
    (line,) = lines('handle("a secret " + "of the caller")', status=1)
    assert (line["event"], line["level"]) == ("crashed", "critical")
    assert "secret of the caller" not in json.dumps(line)
