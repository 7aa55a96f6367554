"""How many threads an engine gets: what is asked for, or a fair share of the physical cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

ENVIRONMENT_VARIABLE = "TRITONFORGE_ENGINE_THREADS"

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_CGROUP_FOLDER = Path("/sys/fs/cgroup")
_PROCESS_GROUPS = Path("/proc/self/cgroup")


def engine_threads(setting: int, instances: int = 1) -> int:
    """Return the number of threads for one engine instance, at least 1.

    Args:
        setting: The ``threads`` parameter; 0 means an equal share of the physical cores. The
            environment variable ``TRITONFORGE_ENGINE_THREADS`` overrides it, for an operator who
            moves a built repository to another machine.
        instances: Engine instances that share this machine.

    Raises:
        ValueError: The environment variable is not a whole number of at least 0.
    """
    override = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if override:
        if not override.isdecimal():
            raise ValueError(
                f"{ENVIRONMENT_VARIABLE}={override!r}: a whole number of threads is needed, 0 = auto"
            )
        setting = int(override)
    return setting or max(1, physical_cores() // max(1, instances))


def physical_cores() -> int:
    """Count the physical cores that this process may use, at least 1.

    Two hyper-threads of a core count once: matrix kernels saturate a core's vector units, a second
    thread on it only adds contention. The affinity mask and the CPU quota of the control group
    (containers) are respected.
    """
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in allowed}
    quota = cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.floor(quota)))


def _siblings(cpu: int) -> str:
    """Hyper-threads that share a core with ``cpu``; the number itself if the kernel does not say."""
    try:
        return (_CPU_FOLDER / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def cgroup_values(name: str) -> list[str]:
    """A limit in this process's control group and in every one above it (version 2); the tightest counts."""
    folders = [_CGROUP_FOLDER]
    try:
        for line in _PROCESS_GROUPS.read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                for part in Path(line[3:].strip()).parts[1:]:
                    folders.append(folders[-1] / part)
    except OSError:
        pass
    values = []
    for folder in folders:
        try:
            values.append((folder / name).read_text(encoding="ascii").strip())
        except OSError:
            continue
    return values


def cpu_quota() -> float | None:
    """CPUs' worth of time that the control groups grant (version 2, else 1); None if unlimited or unknown."""
    pairs = [value.partition(" ")[::2] for value in cgroup_values("cpu.max")]
    if not pairs:
        folder = _CGROUP_FOLDER / "cpu"
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            pairs = [(quota, (folder / "cpu.cfs_period_us").read_text().strip())]
        except OSError:
            return None
    quotas = [int(quota) / int(period) for quota, period in pairs if quota.isdecimal() and int(period)]
    return min(quotas, default=None)
