"""What this process may use of the machine: CPUs and memory, cgroup limits included."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from python_backends.threads import cgroup_values, cpu_quota, physical_cores

_VERSION_1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class CpuBudget:
    """CPUs at hand.

    Attributes:
        physical: Physical cores of the machine.
        logical: Hardware threads of the machine.
        allowed: Hardware threads that this process may run on (CPU affinity).
        quota: CPUs' worth of time that the cgroup grants; None: no limit.
        threads: Compute threads that an engine starts: physical cores, less where affinity or quota
            allow less.
    """

    physical: int
    logical: int
    allowed: int
    quota: float | None
    threads: int


def cpu_budget() -> CpuBudget:
    """Measure the CPUs at hand, as the engines do."""
    return CpuBudget(
        physical=psutil.cpu_count(logical=False) or psutil.cpu_count(logical=True) or 1,
        logical=psutil.cpu_count(logical=True) or 1,
        allowed=len(os.sched_getaffinity(0)),
        quota=cpu_quota(),
        threads=physical_cores(),
    )


def memory_limit() -> int:
    """Return the bytes of memory this process may use: the cgroup's limit, or the machine's memory."""
    values = cgroup_values("memory.max")
    with contextlib.suppress(OSError):
        values.append(_VERSION_1.read_text(encoding="ascii").strip())
    return min([psutil.virtual_memory().total, *(int(value) for value in values if value.isdigit())])


@cache
def cpu_name() -> str:
    """The processor's model, since measurements hold for one only."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
