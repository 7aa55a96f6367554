"""tritonserver's log, and our own, as JSON: one line an event, with the fields of the gateway's lines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

_LINE = re.compile(
    r"(?P<level>[IWEF])(?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d\.\d{3})\d* \d+ "
    r"(?P<place>[^\s\]]+)\] ?(?P<said>.*)"
)
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}
_REQUEST = re.compile(r"\[request id: (?P<id>[^\]]*)\] ")
_FIELDS = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')
_EVENT = re.compile(rf"(?P<event>\w+)(?P<fields>(?: {_FIELDS.pattern})+)")


class JsonLines:
    """Turns tritonserver's lines into JSON, one line an event.

    What backends log as ``event key=value`` (:mod:`python_backends.logs`) becomes fields; a table becomes one
    line; other output, as libraries write it, becomes events of logger ``output``.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._table: dict[str, Any] | None = None

    def __call__(self, line: str) -> Iterator[str]:
        """Take a line, without its end, and give those that are complete."""
        match = _LINE.fullmatch(line)
        if match is None and self._table is not None and line:
            self._table["event"] += f"\n{line}"
            return
        yield from self.end()
        if match is None:
            if line.strip():
                yield json_line("info", "triton", "output", line)
            return
        event = _parsed(match)
        if event["event"]:
            yield _dumps(event)
        else:
            self._table = event

    def end(self) -> Iterator[str]:
        """What waits for more; call it when there is no more."""
        if self._table is not None:
            self._table["event"] = self._table["event"].strip()
            yield _dumps(self._table)
            self._table = None


def _parsed(match: re.Match[str]) -> dict[str, Any]:
    now = datetime.now(UTC)
    # Triton leaves the year out; its clock is UTC.
    year = now.year - (match["month"] == "12" and now.month == 1)
    said = match["said"]
    if said.startswith('"') and said.endswith('"'):
        try:
            said = json.loads(said)
        except ValueError:
            said = said[1:-1]
    of_backend = match["place"].partition(":")[0].endswith(".py")
    event = {
        "time": f"{year}-{match['month']}-{match['day']}T{match['time']}Z",
        "level": _LEVELS[match["level"]],
        "component": "backend" if of_backend else "triton",
        "logger": match["place"],
    }
    request = _REQUEST.match(said)
    if request is not None:
        said = said[request.end() :]
        if request["id"] != "<id_unknown>":
            event["request_id"] = request["id"]
    structured = _EVENT.fullmatch(said) if of_backend else None
    if structured is None:
        return {**event, "event": said}
    fields = {key: json.loads(item) if item[0] == '"' else item for key, item in _FIELDS.findall(said)}
    return {**event, "event": structured["event"], **{k: v for k, v in fields.items() if k not in event}}


def json_line(level: str, component: str, logger: str, event: str) -> str:
    """A line of something that happened now."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _dumps({"time": now, "level": level, "component": component, "logger": logger, "event": event})


def _dumps(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """Puts the standard library's log records into the same form.

    Args:
        component: Which process this is.
    """

    def __init__(self, component: str) -> None:
        """Keep the name."""
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception is in the event, with its traceback."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return json_line(record.levelname.lower(), self._component, record.name, message)
