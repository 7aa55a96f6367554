"""What the server does meanwhile: its metrics and its processes, looked at once a second.

Rates and means are those since the look before, so the first look gives a starting point only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import httpx
import psutil

from loadtest.results import Sample

INTERVAL_S = 1.0

_PREFIXES = ("nv_inference_", "tritonforge_padding_", "tritonforge_generation_")
_QUEUE, _PENDING = "nv_inference_queue_duration_us", "nv_inference_pending_request_count"
_COMPUTE = "nv_inference_compute_infer_duration_us"
_ANSWERED, _TEXTS, _RUNS = "nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count"
_AVOIDED = "tritonforge_padding_avoided_tokens_total"
_WAITING, _RUNNING = "tritonforge_generation_waiting_requests", "tritonforge_generation_running_sequences"
_WAITED = "tritonforge_generation_queue_time_seconds"

#: Values by name and model; versions are added up.
Values = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Watch:
    """Where to look.

    Attributes:
        metrics_url: Triton's ``/metrics``; None: there is nothing to read.
        pids: Processes of the server on this machine; their children are watched too.
    """

    metrics_url: str | None = None
    pids: tuple[int, ...] = ()


class Sampler:
    """Looks at a server in the background, in ``with``.

    Args:
        watch: Where.
        parts: Models that a request passes; the one with the engine is last.
        tool: Tells the process that makes the load, while there is one.
        interval: Seconds between two looks.

    Attributes:
        samples: What was seen until now, in order.
    """

    def __init__(
        self,
        watch: Watch,
        parts: Sequence[str],
        tool: Callable[[], int | None] = lambda: None,
        interval: float = INTERVAL_S,
    ) -> None:
        """Start nothing yet."""
        self.samples: list[Sample] = []
        self._watch = watch
        self._parts = parts
        self._tool = tool
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._client = httpx.Client(timeout=5.0, trust_env=False)
        self._server, self._maker = _Cpu(), _Cpu()
        self._memory_due = 0.0

    def __enter__(self) -> Sampler:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, after the look that goes on."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        before = self._metrics()
        self._look(before, before)  # CPU seconds to count from
        self._memory_due = 0.0
        due = time.monotonic()
        while True:
            due = max(due + self._interval, time.monotonic())  # a look that came late is not made up for
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            now = self._metrics()
            self.samples.append(self._look(before, now))
            before = now or before

    def _metrics(self) -> Values | None:
        if self._watch.metrics_url is None:
            return None
        try:
            return read_metrics(self._client.get(self._watch.metrics_url).text)
        except httpx.HTTPError:  # too busy to answer, or gone: the run itself will tell
            return None

    def _look(self, before: Values | None, now: Values | None) -> Sample:
        processes = list(_family(self._watch.pids))
        tool = self._tool()
        seen = {} if before is None or now is None else compare(before, now, self._parts)
        return Sample(
            at=time.time(),
            cpu=self._server.used(processes) if self._watch.pids else None,
            memory_bytes=self._memory(processes) if self._watch.pids else None,
            client_cpu=self._maker.used(_family((tool,))) if tool is not None else None,
            **seen,
        )

    def _memory(self, processes: Iterable[psutil.Process]) -> int | None:
        """Proportional set sizes, in which shared pages count once; resident where the kernel tells no more.

        The kernel walks all pages for that, tens of milliseconds a gigabyte, in which the process can map
        none. So it is asked as often as takes a 200th of the time.
        """
        begin = time.monotonic()
        if begin < self._memory_due:
            return None
        total = sum(_proportional(process) for process in processes)
        self._memory_due = begin + (time.monotonic() - begin) * 200
        return total


def read_metrics(text: str) -> Values:
    """Read the counters and gauges that are looked at out of Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    # The summaries are most of what Triton writes, and not needed: parsing them costs milliseconds.
    lines = [line for line in text.splitlines() if line.startswith(_PREFIXES) and "_summary_" not in line]
    values: Values = defaultdict(float)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            values[sample.name, sample.labels.get("model", "")] += sample.value
    return dict(values)


def compare(before: Values, now: Values, parts: Sequence[str]) -> dict[str, float | None]:
    """What happened between two looks, as fields of a sample.

    Queues: each part's own mean, added up, since a request passes all of them.
    """
    engine = parts[-1]

    def since(name: str, model: str = engine) -> float:
        return now.get((name, model), 0.0) - before.get((name, model), 0.0)

    def gauge(name: str, model: str = engine) -> float:
        return now.get((name, model), 0.0)

    answered = since(_ANSWERED)
    if (_RUNNING, engine) in now:  # a generator: requests wait in its own queue, and run side by side
        waited = since(f"{_WAITED}_count")
        return {
            "queue_ms": since(f"{_WAITED}_sum") / waited * 1e3 if waited else None,
            "pending": gauge(_WAITING) + gauge(_PENDING),
            "batch": gauge(_RUNNING),
        }
    queues = [since(_QUEUE, part) / 1e3 / count for part in parts if (count := since(_ANSWERED, part))]
    runs = since(_RUNS)
    return {
        "queue_ms": sum(queues) if queues else None,
        "compute_ms": since(_COMPUTE) / 1e3 / answered if answered else None,
        "batch": since(_TEXTS) / runs if runs else None,
        "pending": sum(gauge(_PENDING, part) for part in parts),
        "padding_avoided": since(_AVOIDED) if (_AVOIDED, engine) in now else None,
    }


def _family(pids: Iterable[int]) -> Iterable[psutil.Process]:
    for pid in pids:
        try:
            process = psutil.Process(pid)
            yield from (process, *process.children(recursive=True))
        except psutil.Error:
            continue


class _Cpu:
    """CPU that processes used between two looks, by pid: those that came or went meanwhile do not count."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._seconds: dict[int, float] = {}

    def used(self, processes: Iterable[psutil.Process]) -> float:
        """CPUs, on average since the last call."""
        seconds = {}
        for process in processes:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            seconds[process.pid] = times.user + times.system
        now = time.monotonic()
        spent = sum(value - self._seconds[pid] for pid, value in seconds.items() if pid in self._seconds)
        elapsed, self._at, self._seconds = max(now - self._at, 1e-9), now, seconds
        return spent / elapsed


def _proportional(process: psutil.Process) -> int:
    """Bytes of one process; 0 where it has ended."""
    with contextlib.suppress(psutil.Error):
        try:
            info = process.memory_full_info()
            return int(getattr(info, "pss", info.rss))
        except psutil.AccessDenied:  # another user's
            return int(process.memory_info().rss)
    return 0
