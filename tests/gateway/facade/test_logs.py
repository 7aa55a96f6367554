"""Faults are logged without what callers sent."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import structlog
from gateway.facade.logs import configure_logs

configure_logs()

def handle(text):
    raise RuntimeError("broken")

try:
    handle("a secret of the caller")
except RuntimeError as error:
    structlog.get_logger("gateway").error("fault", path="/embed", exc_info=error)
"""


def test_a_fault_tells_where_but_not_what() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    assert (line["event"], line["level"], line["path"]) == ("fault", "error", "/embed")
    assert 'raise RuntimeError("broken")' in line["exception"] or "in handle" in line["exception"]
    assert "secret of the caller" not in done.stderr.replace('handle("a secret of the caller")', "")
