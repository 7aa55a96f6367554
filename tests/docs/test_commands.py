"""Every command that README and docs show is run, page by page, as a reader would run it.

A fenced block marked ``bash`` is run line by line in the checkout. Its commands use the default ports,
so these must be free. A block marked ``bash not-run: REASON`` is what cannot be run here.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "model_repository" / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")
PORTS = (8000, 8001, 8002, 8080, 8090)
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
    "python recipes/spam/train.py": "[ -d build/models/spam ] || python recipes/spam/train.py --limit 600",
}


def blocks(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Info string and commands of each bash block."""
    for info, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield info.strip(), list(commands(body))


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


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [p for p in PAGES if any(not info for info, _ in blocks(p))], ids=page_name)
def test_commands_work(page: Path, tmp_path: Path) -> None:
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"the docs use the default ports, and port {port} is in use")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }
    log = tmp_path / "servers.log"
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for line in [line for info, found in blocks(page) if not info for line in found]:
            if exported := EXPORT.fullmatch(line):
                environment[exported[1]] = exported[2].strip("'\"")
                continue
            ready = next((url for pattern, url in STAYS.items() if pattern.match(line)), None)
            if ready is not None:
                assert ready not in servers, f"{page_name(page)} starts two of a kind: {line}"
                servers[ready] = _start(line, ready, environment, log)
                continue
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", DRY.get(line.partition("#")[0].strip(), line)],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
            )
            said = f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
            assert result.returncode == 0, (
                f"{page_name(page)}: `{line}` ended with {result.returncode}\n{said}"
            )
    finally:
        statuses = [_stop(server) for server in reversed(servers.values())]
    assert not any(statuses), log.read_text(encoding="utf-8", errors="replace")[-3000:]


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
