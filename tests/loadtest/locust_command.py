"""Runs locust as its users do."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import loadtest

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"


def locust(
    folder: Path, *arguments: str, kinds: Collection[str] = (), least: int = 1, **environment: str
) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run locust for some seconds; return its status, its table by protocol, and its output.

    The run is shorter than asked on a busy machine: locust counts the time that its imports took. So it is
    repeated, longer, if not every one of the kinds has come to so many requests.
    """
    for seconds in (3, 15, 60):
        status, rows, output = _locust(folder, seconds, *arguments, **environment)
        if rows and all(int(rows.get(kind, {}).get("Request Count", 0)) >= least for kind in kinds or rows):
            break
    return status, rows, output


def _locust(
    folder: Path, seconds: int, *arguments: str, **environment: str
) -> tuple[int, dict[str, dict[str, str]], str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["-u", "6", "-r", "6", "-t", f"{seconds}s", "--stop-timeout", "60"]
    command += ["--csv", str(folder / "run")]
    done = subprocess.run(
        [*command, *arguments],
        cwd=LOCUSTFILE.parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    with (folder / "run_stats.csv").open() as table:
        rows = {row["Type"]: row for row in csv.DictReader(table) if row["Type"]}
    return done.returncode, rows, done.stdout + done.stderr
