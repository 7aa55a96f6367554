"""CPU time of processes and of what they started."""

from __future__ import annotations

import psutil


def cpu_seconds(*pids: int) -> float:
    """CPU time so far, user and system, of processes and all their living descendants; each counts once.

    Args:
        pids: Of processes that live.

    Raises:
        psutil.Error: A process has ended.
    """
    family = {
        each for process in map(psutil.Process, pids) for each in (process, *process.children(recursive=True))
    }
    return float(sum(sum(each.cpu_times()[:2]) for each in family))
