"""Starts a system, waits until it serves, watches what it uses, and ends it with all its processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from loadtest.errors import LoadTestError
from loadtest.peers.settings import Setup
from loadtest.peers.system import Process, System, Way, thread_variables
from tritonforge.server.ports import free_ports
from tritonforge.server.process import end_with_parent

_POLL_S = 0.1
_END_S = 20.0
_SETTLE_S = 1.0


class Running:
    """A system that serves.

    Attributes:
        system: Which.
        ports: Where.
    """

    def __init__(self, system: System, ports: dict[str, int]) -> None:
        """Nothing is started yet; :func:`serve` does it."""
        self.system = system
        self.ports = ports
        self.started: list[subprocess.Popen[bytes]] = []

    def url(self, way: Way) -> str:
        """Where a text is posted."""
        return f"http://127.0.0.1:{self.ports[way.port]}{way.path}"

    def cpu_seconds(self) -> float:
        """CPU time that all its processes have used, those that ended meanwhile included."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                total += used.user + used.system + used.children_user + used.children_system
        return total

    def family(self) -> list[psutil.Process]:
        """Its processes and all below them."""
        found: dict[int, psutil.Process] = {}
        for each in self.started:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(each.pid)
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        return list(found.values())

    def idle_cpus(self, seconds: float = 1.0) -> float:
        """CPUs in use while nobody asks, once what was in flight is done."""
        time.sleep(_SETTLE_S)
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds


@contextlib.contextmanager
def serve(system: System, setup: Setup, timeout: float = 180.0) -> Iterator[Running]:
    """Run a system: its processes in order, each waited for.

    Args:
        system: What to start.
        setup: Where, and with how many threads.
        timeout: Seconds that each process may take to be ready.

    Raises:
        LoadTestError: One ended, or was not ready in time; with the last line it wrote.
    """
    ports = dict(zip(system.ports, free_ports(len(system.ports)), strict=True))
    place = setup.place(system, ports)
    shutil.rmtree(place.work, ignore_errors=True)
    place.work.mkdir(parents=True)
    log = place.work / "log"
    running = Running(system, ports)
    with log.open("wb") as sink:
        try:
            for process in system.processes(place):
                started = _start(process, place.threads, sink.fileno())
                running.started.append(started)
                _wait(started, process.ready, system.title, log, timeout)
            yield running
        finally:
            _end(running)


def _start(process: Process, threads: int, sink: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",  # the model is a folder; nobody shall ask the network for it
        "PATH": f"{Path(process.command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        **thread_variables(threads),
        **process.environment,
    }
    return subprocess.Popen(
        process.command,
        env=environment,
        cwd=process.folder,
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def _wait(started: subprocess.Popen[bytes], ready: str, title: str, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if started.poll() is not None:
                raise LoadTestError(
                    f"ended with status {started.returncode} before it served: {last_line(log)}",
                    where=title,
                    mend=f"read {log}",
                )
            with contextlib.suppress(httpx.TransportError):
                if client.get(ready).is_success:
                    return
            time.sleep(_POLL_S)
    raise LoadTestError(f"was not ready after {timeout:.0f} s", where=title, mend=f"read {log}")


def _end(running: Running) -> None:
    """Ask the first process of each to stop, last started first; kill what is left after a while."""
    family = running.family()
    for started in reversed(running.started):
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(_END_S)
    alive = [process for process in family if process.is_running()]
    _, alive = psutil.wait_procs(alive, timeout=2.0)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)
    for started in running.started:
        started.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says something, shortened."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")[:300]
