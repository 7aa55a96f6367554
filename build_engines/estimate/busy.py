"""How much of this process's CPUs others take: a measurement beside other work is not one of the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import psutil

BUSY = 0.15
"""Share of the CPUs taken by others above which wall times say little."""


class OtherLoad:
    """Counts from when it is made.

    Args:
        own: Processes whose work is ours, besides this one; this one's children are not counted by
            themselves.
    """

    def __init__(self, own: Iterable[psutil.Process] = ()) -> None:
        """Start to count."""
        self._own = [psutil.Process(), *own]
        self._cpus = sorted(os.sched_getaffinity(0))
        self._start = (time.perf_counter(), self._busy(), self._own_seconds())

    def seconds(self) -> tuple[float, float, float]:
        """CPU seconds since then: there were, we took, all took."""
        elapsed = time.perf_counter() - self._start[0]
        busy = self._busy() - self._start[1]
        return elapsed * len(self._cpus), self._own_seconds() - self._start[2], busy

    def share(self) -> float:
        """Share of the CPUs that others took since then."""
        there, own, busy = self.seconds()
        return max(0.0, busy - own) / there if there else 0.0

    def _busy(self) -> float:
        """Seconds that the CPUs which we may use were at work."""
        times = psutil.cpu_times(percpu=True)
        chosen = [times[cpu] for cpu in self._cpus if cpu < len(times)] or times
        return float(sum(sum(cpu) - cpu.idle - getattr(cpu, "iowait", 0.0) for cpu in chosen))

    def _own_seconds(self) -> float:
        """Ours."""
        found = 0.0
        for process in self._own:
            try:
                used = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found += used.user + used.system
        return found
