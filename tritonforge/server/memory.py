"""Holds a server with all its stubs to a limit of memory, on any Linux, without root and without cgroups.

Two things together, since the kernel knows no limit for a family of processes but a cgroup's:

* each process has the limit as its ``RLIMIT_DATA``. Whoever asks for more is told no by the kernel: numpy
  raises MemoryError, OpenVINO and ONNX Runtime an exception, and that request fails alone;
* what they hold together is looked at several times a second. Above the limit the largest stub is ended
  before the machine runs out, and :mod:`tritonforge.server.watchdog` loads its model again.

What is mapped from a file, as weights are, counts for the second only. Where a cgroup can be had (systemd's
``MemoryMax=``, a container's limit), set it besides: it is exact, and holds without this process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

import psutil

from tritonforge.errors import ServerError, UsageError
from tritonforge.recipe.edge import LEAST_MEMORY_MIB
from tritonforge.server.repository import MANIFEST
from tritonforge.server.resources import memory_limit
from tritonforge.server.watchdog import Stub, scan_stubs

logger = logging.getLogger(__name__)

MIB = 1 << 20
_KIB = 1 << 10


def limit_of(repository: Path, models: Iterable[str]) -> int | None:
    """The limit that the published recipes ask for, in MiB.

    Args:
        repository: The model repository.
        models: Models that will be loaded.

    Returns:
        ``edge.max_memory_mib`` of those built with ``target: edge``, the largest if there are several: it is
        the machine's, which they share. None if there is no such model.
    """
    found = [limit for model in models if (limit := _asked(repository / model / MANIFEST)) is not None]
    return max(found, default=None)


def check_limit(mebibytes: int) -> None:
    """Refuse a limit with which tritonserver itself would not start.

    Raises:
        UsageError: It is less.
    """
    if mebibytes < LEAST_MEMORY_MIB:
        raise UsageError(
            f"a server needs {LEAST_MEMORY_MIB} MiB at least, and was given {mebibytes}",
            where="--memory-limit-mib",
            mend="give more, or 0 for no limit",
        )


def limit_process(pid: int, limit: int) -> None:
    """Set ``RLIMIT_DATA`` of a process, which its children inherit.

    Args:
        pid: Of a process of this user.
        limit: Bytes.

    Raises:
        ServerError: If a lower limit than this is in force, which may not be raised.
    """
    try:
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
    except (PermissionError, ValueError) as error:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        raise ServerError(
            f"RLIMIT_DATA cannot be set to {limit // MIB} MiB: the hard limit is {hard // MIB} MiB",
            where="memory limit",
            mend="give a smaller limit, or raise `ulimit -Hd`",
        ) from error


class MemoryGuard:
    """Watches in a thread what a server and its stubs hold, and ends the largest stub above the limit.

    Args:
        server_pid: Process id of tritonserver.
        limit: Bytes of all of them together; a lower limit of the cgroup counts instead.
        interval_s: Seconds between two looks.
    """

    def __init__(self, server_pid: int, limit: int, *, interval_s: float = 0.25) -> None:
        """Prepare; :meth:`start` begins to watch."""
        self.limit = min(limit, memory_limit())
        self._server_pid = server_pid
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-guard", daemon=True)
        self._ended: set[int] = set()
        self._said = False

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.look()

    def look(self) -> None:
        """Look once, and end the largest stub if all together hold too much."""
        live, _ = scan_stubs(self._server_pid)
        stubs = [stub for stub in live if stub.pid not in self._ended]
        pids = [self._server_pid, *(stub.pid for stub in stubs)]
        # Resident memory is quickly read, and at least as much: it counts shared pages several times.
        if sum(map(_resident, pids)) <= self.limit:
            self._said = False
            return
        held = {pid: _proportional(pid) for pid in pids}
        total = sum(held.values())
        if total > self.limit:
            self._end(max(stubs, key=lambda stub: held[stub.pid], default=None), total, held)

    def _end(self, stub: Stub | None, total: int, held: dict[int, int]) -> None:
        over = f"server and stubs hold {total // MIB} MiB of {self.limit // MIB}"
        if stub is None:
            if not self._said:
                logger.error("%s, and there is no stub to end", over)
            self._said = True
            return
        logger.error(
            "%s; ending the largest stub, of model '%s' (pid %d, %d MiB): the requests it has fail",
            over,
            stub.model,
            stub.pid,
            held[stub.pid] // MIB,
        )
        # Until the kernel has taken it apart it counts, and another would have to go for it.
        self._ended.add(stub.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(stub.pid, signal.SIGKILL)


def _asked(manifest: Path) -> int | None:
    """What one published recipe asks for; None if it is not for the edge, or not ours."""
    try:
        recipe = json.loads(manifest.read_text(encoding="utf-8"))["build"]["recipe"]
        return int(recipe["edge"]["max_memory_mib"]) if recipe["target"] == "edge" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(pid: int) -> int:
    """Memory of a process with shared pages divided among those who share them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    except (OSError, ValueError):  # it ended meanwhile
        pass
    return 0
