"""What a facade process logs: JSON lines on standard error."""

from __future__ import annotations

import sys

import structlog


def configure_logs() -> None:
    """Set structlog up.

    A fault is logged with its traceback, but without the values of variables, as structlog would show them by
    itself: texts and tokens of callers are among them.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
