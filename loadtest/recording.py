"""Keeps what became of each request of a locust run in files, one of each process, at little cost.

A process appends four numbers a request to an array and writes it out once a second: the time when the answer
was whole, latency, items and time to the first token, as :class:`loadtest.records.Records` has them.
"""

from __future__ import annotations

import json
import math
import os
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.records import Failure, Floats, Records

COLUMNS = 4
_MOST_FAILURES = 100_000  # of a process; what fails at once fails often


class Recorder:
    """Writes the records of this process.

    Args:
        folder: Where; it exists.
    """

    def __init__(self, folder: Path) -> None:
        """Write nothing yet: the process may still fork."""
        self._folder = folder
        self._numbers = array("d")
        self._failures: list[str] = []
        self._failed = 0

    def answered(self, ended: float, latency_ms: float, items: float, first_ms: float | None) -> None:
        """Keep one answer."""
        self._numbers.extend((ended, latency_ms, items, math.nan if first_ms is None else first_ms))

    def failed(self, ended: float, message: str) -> None:
        """Keep one failure; its message holds no text of a request."""
        self._failed += 1
        if self._failed <= _MOST_FAILURES:
            self._failures.append(json.dumps([ended, message]))

    def flush(self) -> None:
        """Write out what is kept."""
        numbers, self._numbers = self._numbers, array("d")
        failures, self._failures = self._failures, []
        if numbers:
            with (self._folder / f"answers-{os.getpid()}.f64").open("ab") as file:
                numbers.tofile(file)
        if failures:
            with (self._folder / f"failures-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write("\n".join(failures) + "\n")

    def stage(self, users: int) -> None:
        """Note that a stage with so many users begins now."""
        with (self._folder / "stages.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"started": time.time(), "users": users}) + "\n")


def read_stages(folder: Path) -> list[dict[str, Any]]:
    """When each stage began, in order."""
    file = folder / "stages.jsonl"
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    )


def read_records(folder: Path) -> Records:
    """Put the records of all processes together."""
    parts = [np.fromfile(file, dtype=np.float64) for file in sorted(folder.glob("answers-*.f64"))]
    table: Floats = np.concatenate([*parts, np.empty(0)]).reshape(-1, COLUMNS)
    failures = [
        Failure(*json.loads(line))
        for file in sorted(folder.glob("failures-*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    ended, latency, items, first = table.T
    return Records(ended, latency, items, first, tuple(failures))
