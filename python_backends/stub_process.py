"""What Linux tells of this process, the stub: https://man7.org/linux/man-pages/man5/proc.5.html."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_START_FIELD = 19  # starttime, counted from behind the name in parentheses, which may hold spaces


def resident_bytes() -> int:
    """Memory of this process that is in RAM, shared pages included."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def cpu_seconds() -> float:
    """CPU time that this process has used, in user and kernel mode, all threads."""
    return time.process_time()


def start_time() -> float:
    """When this process was started, seconds since 1970."""
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[_START_FIELD])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS
    return time.time() - age
