"""What this process may use of the machine: CPUs and memory, cgroup limits included."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CpuBudget:
    """CPUs at hand.

    Attributes:
        physical: Physical cores of the machine.
        logical: Hardware threads of the machine.
        allowed: Hardware threads that this process may run on (CPU affinity).
        quota: CPUs' worth of time that the cgroup grants; None: no limit.
    """

    physical: int
    logical: int
    allowed: int
    quota: float | None

    @property
    def threads(self) -> int:
        """Compute threads worth starting: physical cores, less where affinity or quota allow less."""
        limit = math.inf if self.quota is None else max(1, math.floor(self.quota))
        return int(min(self.physical, self.allowed, limit))


def cpu_budget() -> CpuBudget:
    """Measure the CPUs at hand."""
    logical = psutil.cpu_count(logical=True) or 1
    return CpuBudget(
        physical=psutil.cpu_count(logical=False) or logical,
        logical=logical,
        allowed=len(os.sched_getaffinity(0)),
        quota=_cpu_quota(),
    )


def memory_limit() -> int:
    """Return the bytes of memory this process may use: the cgroup's limit, or the machine's memory."""
    limits = [
        int(value)
        for value in _cgroup_values("memory.max", "memory/memory.limit_in_bytes")
        if value.isdigit()
    ]
    return min([psutil.virtual_memory().total, *limits])


def _cpu_quota() -> float | None:
    quotas = []
    for value in _cgroup_values("cpu.max"):
        quota, _, period = value.partition(" ")
        if quota != "max":
            quotas.append(int(quota) / int(period))
    version_1 = _CGROUP / "cpu"
    try:
        quota_us = int((version_1 / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        if quota_us > 0:
            quotas.append(quota_us / int((version_1 / "cpu.cfs_period_us").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return min(quotas, default=None)


def _cgroup_values(name: str, version_1: str | None = None) -> list[str]:
    """Read a limit in this process's cgroup and in every one above it: the tightest counts."""
    folders = [_CGROUP]
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                for part in Path(line[3:].strip()).parts[1:]:
                    folders.append(folders[-1] / part)
    except OSError:
        pass
    files = [folder / name for folder in folders]
    if version_1 is not None:
        files.append(_CGROUP / version_1)
    values = []
    for file in files:
        try:
            values.append(file.read_text(encoding="ascii").strip())
        except OSError:
            continue
    return values
