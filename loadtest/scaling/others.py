"""What others do to a measurement: CPUs of this machine that neither the server nor the client used."""

from __future__ import annotations

import time

import psutil

from loadtest.results import LoadRun

MUCH = 0.15
"""Share of the CPUs above which figures say more of the others than of the server."""


class Others:
    """Looks from when it is made."""

    def __init__(self) -> None:
        """Start to count."""
        self._begin = time.monotonic()
        self._busy = _busy_seconds()

    def cpus(self, run: LoadRun) -> float:
        """CPUs that others used since then, on average.

        Args:
            run: The load test meanwhile, whose samples tell what server and client used.
        """
        busy = (_busy_seconds() - self._busy) / max(1e-9, time.monotonic() - self._begin)
        own = [(sample.cpu or 0.0) + (sample.client_cpu or 0.0) for sample in run.samples]
        return max(0.0, busy - (sum(own) / len(own) if own else 0.0))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
