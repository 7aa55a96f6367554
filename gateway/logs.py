"""What the gateway's own processes log: one line an event, on standard error.

The fields are the same in every process, Envoy and tritonserver included (docs/logs.md).
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from gateway.tracing import current_trace_id

Style = Literal["json", "text"]

_OURS = ("gateway", "tritonforge")
"""Whose level can be set; of all others warnings and worse are logged."""

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def note_request(request_id: str | None) -> None:
    """Note the id of the request that this task serves; what it logs from here on names it."""
    _request_id.set(request_id)


def configure_logs(component: str, level: str, style: Style, **fields: Any) -> None:
    """Set up structlog, and the standard library's logging, which libraries use.

    Args:
        component: Which of the gateway's parts this process is.
        level: ``debug``, ``info``, ``warning`` or ``error``; :func:`set_level` changes it.
        style: ``json`` for collectors, ``text`` for people.
        **fields: What else stands in every line.
    """
    always = {"component": component, **fields}

    def complete(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event.update(always)
        for name, value in (("request_id", _request_id.get()), ("trace_id", current_trace_id())):
            if value:
                event.setdefault(name, value)
        return event

    def ordered(_logger: Any, _method: str, event: EventDict) -> EventDict:
        first = ("time", "level", *always, "logger", "event", "request_id", "trace_id")
        return {**{name: event[name] for name in first if name in event}, **event}

    render: list[Processor] = (
        [ordered, structlog.processors.JSONRenderer()]
        if style == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time")]
    )
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _time,
        complete,
        _exception,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)
    sys.excepthook = _crashed


def set_level(level: str) -> None:
    """Log events of this level and above from now on.

    Raises:
        ValueError: There is no such level.
    """
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


def _time(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["time"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _exception(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Put the frames of an exception into the line.

    Not the values of variables, and no message unless the level is ``debug``: texts and tokens of callers may
    be in both.
    """
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error is not None and not isinstance(error, BaseException):
        error = sys.exc_info()[1] if error else None
    if error is not None:
        messages = logging.getLogger(_OURS[0]).isEnabledFor(logging.DEBUG)
        event["exception"] = "which led to:\n".join(_chain(error, messages))
    return event


def _chain(error: BaseException, messages: bool) -> list[str]:
    """Frames of an exception, those of what it came from first."""
    found: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        end = traceback.format_exception_only(cause) if messages else [f"{type(cause).__qualname__}\n"]
        found.insert(0, "".join([*traceback.format_tb(cause.__traceback__), *end]))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return found


def _crashed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, Exception):
        structlog.get_logger("gateway").critical("crashed", exc_info=error)
    else:
        sys.__excepthook__(kind, error, trace)
