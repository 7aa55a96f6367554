"""Every command that README and docs show is run, page by page, as a reader would run it.

A fenced block marked ``bash`` is run line by line in the checkout. Its commands use the default ports,
so these must be free. A block marked ``bash not-run: REASON`` is what cannot be run here.

The pages are read one after another, as by somebody who keeps what he has: a command that was run on a page
before is not run again, and a server that runs already is asked again. A page alone runs all its commands.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
# The last one builds another model, and a server that shall serve it has to begin anew.
LAST = ROOT / "docs" / "classification.md"
FIRST = [ROOT / "README.md", ROOT / "docs" / "getting_started.md"]
PAGES = [
    *FIRST,
    ROOT / "model_repository" / "README.md",
    *sorted({*(ROOT / "docs").glob("*.md")} - {*FIRST, LAST}),
    LAST,
]
BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
PORTS = (8000, 8001, 8002, 8080, 8090)
# Looks whether ports are free.
WANTS_PORTS = re.compile(r"tritonforge doctor\b")
# Cheap, and the state of a server is what they are about.
ASKS = re.compile(r"curl\b")
# What stays in the foreground, which a reader has in a terminal of its own, and who tells that it is ready.
STAYS = {
    re.compile(r"(tritonforge|make) serve\b"): "http://127.0.0.1:8000/v2/health/ready",
    re.compile(r"(tritonforge|make) gateway( --(open|config \S+))?$"): "http://127.0.0.1:8080/ready",
}
EXPORT = re.compile(r"export (\w+)=(.*)")
# What is running right now, taken for true by a dry run; and a training of minutes, done on fewer mails where
# nobody has trained yet.
DRY = {
    "make test": "make --dry-run test",
    "python recipes/spam/train.py": "[ -d build/models/spam ] || python recipes/spam/train.py --limit 150",
}


@cache
def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """Info string and commands of each bash block."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(info.strip(), list(commands(body))) for info, body in found]


def commands(body: str) -> Iterator[str]:
    """Split a block into commands: a line, or as many as it takes until quotes and brackets are closed."""
    pending: list[str] = []
    for line in body.splitlines():
        if not pending and (not line.strip() or line.startswith("#")):
            continue
        pending.append(line)
        command = "\n".join(pending)
        whole = subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0
        if whole and not line.endswith("\\"):
            yield command
            pending = []
    assert not pending, f"a command without an end: {pending}"


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [
        target
        for target, _ in LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks_that_are_not_run_say_why(page: Path) -> None:
    for info, _ in blocks(page):
        assert not info or re.fullmatch(r"not-run: \S.+", info), f"{page_name(page)}: ```bash {info}"


class Reader:
    """Who reads the pages, in one checkout.

    Args:
        log: What the servers say.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._done: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self._servers: dict[str, tuple[object, subprocess.Popen[bytes]]] = {}  # in the order of their start

    def read(self, page: Path) -> None:
        """Do what a page says."""
        exported: dict[str, str] = {}
        started: set[str] = set()
        for line in [line for info, found in blocks(page) if not info for line in found]:
            if export := EXPORT.fullmatch(line):
                exported[export[1]] = export[2].strip("'\"")
                continue
            ready = next((url for pattern, url in STAYS.items() if pattern.match(line)), None)
            if ready is None:
                self._run(page, line, exported)
                continue
            assert ready not in started, f"{page_name(page)} starts two of a kind: {line}"
            started.add(ready)
            self._serve(line, ready, exported)

    def _run(self, page: Path, line: str, exported: Mapping[str, str]) -> None:
        key = line, frozenset(exported.items())
        if key in self._done:
            return
        if WANTS_PORTS.match(line):
            self.stop()
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", DRY.get(line.partition("#")[0].strip(), line)],
            cwd=ROOT,
            env=_environment(exported),
            capture_output=True,
            text=True,
            timeout=900,
        )
        said = f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        assert result.returncode == 0, f"{page_name(page)}: `{line}` ended with {result.returncode}\n{said}"
        if not ASKS.match(line):
            self._done.add(key)

    def _serve(self, line: str, ready: str, exported: Mapping[str, str]) -> None:
        """Have a server run, begun with the models that are there now and these variables."""
        wanted = line, dict(exported), _models()
        if ready in self._servers:
            begun_with, server = self._servers[ready]
            if begun_with == wanted and server.poll() is None:
                return
            self.stop(since=ready)
        server = _start(line, ready, _environment(exported), self._log)
        # `make serve` builds before it serves.
        self._servers[ready] = ((line, dict(exported), _models()), server)

    def stop(self, since: str | None = None) -> None:
        """End all servers, or one and those that were started after it and may depend on it."""
        names = list(self._servers)
        ended = names[names.index(since) if since else 0 :]
        statuses = [_stop(self._servers.pop(name)[1]) for name in reversed(ended)]
        assert not any(statuses), self._log.read_text(encoding="utf-8", errors="replace")[-3000:]


def _environment(exported: Mapping[str, str]) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "120", **exported}


def _models() -> list[tuple[str, int]]:
    """Versions of all published models, and when each was written."""
    versions = (ROOT / "model_repository").glob("[!.]*/[0-9]*")
    return sorted((str(version), version.stat().st_mtime_ns) for version in versions)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"the docs use the default ports, and port {port} is in use")
    reader = Reader(tmp_path_factory.mktemp("commands") / "servers.log")
    yield reader
    reader.stop()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [p for p in PAGES if any(not info for info, _ in blocks(p))], ids=page_name)
def test_commands_work(page: Path, reader: Reader) -> None:
    reader.read(page)


def _start(line: str, ready: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server in the background and wait until it is ready."""
    with log.open("ab") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(ready, trust_env=False).is_success:
                return server
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    _stop(server)
    pytest.fail(f"`{line}` did not get ready:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")


def _stop(server: subprocess.Popen[bytes]) -> int:
    """End a server as Ctrl-C or an orchestrator would."""
    if server.poll() is None:
        # `make serve` has the server as a child, and would not pass the signal on.
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        next(p for p in family if "tritonforge" in " ".join(p.cmdline())).send_signal(signal.SIGTERM)
    return server.wait(timeout=60)
