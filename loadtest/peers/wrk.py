"""The load: wrk, a client in C that takes next to nothing from the machine it shares with the server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.peers.system import Way

SCRIPT = Path(__file__).parent / "post.lua"
_ERRORS = ("connect", "read", "write", "status", "timeout")


@dataclass(frozen=True)
class Load:
    """What one run of wrk came to.

    Attributes:
        seconds: That it ran.
        requests: Answered, with whatever status.
        bytes: Read, headers too.
        p50_ms: Median latency, milliseconds.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        errors: How many of each kind: connections, reads, writes, statuses beyond 399, timeouts.
    """

    seconds: float
    requests: int
    bytes: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: dict[str, int]

    @property
    def failed(self) -> int:
        """Errors of all kinds."""
        return sum(self.errors.values())


def find_wrk() -> str:
    """Return the path of wrk.

    Raises:
        LoadTestError: It is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadTestError("wrk, which makes the load, is not installed", mend="apt-get install wrk")
    return found


def wrk_version(path: str) -> str:
    """Its version; wrk prints it with its usage, and ends with status 1."""
    words = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stdout.split()
    return words[1].removeprefix("debian/") if len(words) > 1 else "of unknown version"


def write_requests(folder: Path, way: Way, texts: Sequence[str]) -> None:
    """Write what ``post.lua`` reads: a body for each text, and the headers."""
    folder.mkdir(parents=True, exist_ok=True)
    bodies = "".join(json.dumps(way.body(text)) + "\n" for text in texts)
    (folder / "bodies").write_text(bodies, encoding="utf-8")
    headers = {"content-type": "application/json", **way.headers}
    (folder / "headers").write_text("".join(f"{name}: {value}\n" for name, value in headers.items()))


def run_wrk(wrk: str, url: str, folder: Path, *, connections: int, seconds: float, first: int = 0) -> Load:
    """Load a URL in a closed loop: each connection asks again when it is answered.

    Args:
        wrk: The program.
        url: What to post to.
        folder: As :func:`write_requests` left it.
        connections: Requests in flight.
        seconds: How long; wrk counts whole ones.
        first: Which body to begin with.

    Raises:
        LoadTestError: wrk failed.
    """
    command = [wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{round(seconds)}s"]
    command += ["--timeout", "30s", "--script", str(SCRIPT), url, "--", str(folder), str(first)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadTestError(
            "wrk did not end", where=url, mend="see whether the server still answers"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LoadTestError(f"wrk ended with status {done.returncode}: {said}", where=url)
    return read_wrk(done.stdout)


def read_wrk(output: str) -> Load:
    """Read the line of JSON that ``post.lua`` writes below wrk's own words.

    Raises:
        LoadTestError: There is none.
    """
    line = next((line for line in reversed(output.splitlines()) if line.startswith("{")), None)
    if line is None:
        raise LoadTestError("wrk printed no figures", mend=f"its output was: {output.strip()[-500:]}")
    found: dict[str, Any] = json.loads(line)
    p50, p90, p99 = (found[f"p{share}_us"] / 1e3 for share in (50, 90, 99))
    errors = {kind: int(found[kind]) for kind in _ERRORS if found[kind]}
    return Load(found["seconds"], found["requests"], found["bytes"], p50, p90, p99, errors)
