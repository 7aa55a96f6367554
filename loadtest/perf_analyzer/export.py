"""Reads what perf_analyzer exports: the times of each request and response, in Unix nanoseconds."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

import numpy as np

from loadtest.errors import LoadTestError
from loadtest.records import Floats, Records

# Outputs are most of the file (8 kB of a vector of 384 numbers), and not wanted. Quotes within texts are
# escaped, so neither key is found in one.
_REQUEST = re.compile(rb'\{"timestamp":(\d+),')
_RESPONSES = re.compile(rb'"response_timestamps":\[(\d+)')


def read_encoder(file: Path, texts: int) -> Records:
    """Read the export of a run with ``texts`` texts a request.

    Raises:
        LoadTestError: There is no request in it, or it has another format.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        sent = [int(match[1]) for match in _REQUEST.finditer(data)]
        ended = [int(match[1]) for match in _RESPONSES.finditer(data)]
    if not sent or len(sent) != len(ended):
        raise _unreadable(file, f"{len(sent)} requests and {len(ended)} answers")
    milliseconds = (np.array(ended) - np.array(sent)) / 1e6
    return Records(
        ended=np.array(ended) / 1e9,
        latency=milliseconds,
        items=np.full(len(ended), texts, float),
        first=np.full(len(ended), np.nan),
    )


def read_streams(file: Path) -> Records:
    """Read the export of a run that streams answers of a generator.

    Raises:
        LoadTestError: There is no answer in it, one was cut off, or it has another format.
    """
    rows = []
    try:
        experiments = json.loads(file.read_bytes())["experiments"]
        for request in (each for one in experiments for each in one["requests"]):
            times = request["response_timestamps"]
            tokens = (request["response_outputs"] or [{}])[-1].get("completion_tokens")
            if not isinstance(tokens, int) or tokens < 1:
                raise LoadTestError(
                    "an answer was cut off: its last response does not say how many tokens it has",
                    mend="read the server's log",
                )
            rows.append(
                (times[-1], times[-1] - request["timestamp"], tokens, times[0] - request["timestamp"])
            )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _unreadable(file, repr(error)) from error
    if not rows:
        raise _unreadable(file, "no request")
    table: Floats = np.array(rows, dtype=np.float64)
    ended, latency, items, first = table.T
    return Records(ended=ended / 1e9, latency=latency / 1e6, items=items, first=first / 1e6)


def _unreadable(file: Path, what: str) -> LoadTestError:
    from loadtest.perf_analyzer.install import VERSION

    return LoadTestError(
        f"cannot be read: {what}",
        where=file.name,
        mend=f"use perf_analyzer {VERSION}, which is installed here",
    )
