"""The thread that owns the engine: it takes requests in, steps, and sends what the steps make.

A request waits in a line of its own until one of ``max_num_seqs`` places is free. The line has the bounds
of Triton's queue policy, but is kept here, as in TensorRT-LLM's backend: with a bound of its own Triton's
batcher stalls bursts by half a second (core's ``dynamic_batch_scheduler.cc``,
``WaitForPayloadSlotAvailable``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from ..metrics import BUSY
from . import metrics
from .job import Job, Meter
from .protocol import Failure, FinishReason, Generator, Progress, RefusedError
from .settings import QueueSettings

_ASK_WAITING_S = 0.25  # those that wait hold no place, so it is no hurry to learn that one has left
_FAILED_STEPS = 3  # in a row; the engine is then taken for broken


class QueueFullError(Exception):
    """No place is left in the line."""


class GenerationLoop:
    """Runs one engine for many requests.

    Args:
        engine: Loaded; from now on it is used by this thread only.
        slots: Sequences in the engine at once.
        queue: Bounds of the line in front of it.
        meter: Where it counts.
        broken: Called with a message once the engine fails again and again.
    """

    def __init__(
        self,
        engine: Generator,
        slots: int,
        queue: QueueSettings,
        meter: Meter,
        broken: Callable[[str], None],
    ) -> None:
        """Start the thread."""
        self._engine = engine
        self._slots = slots
        self._queue = queue
        self._meter = meter
        self._broken = broken
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._closing = False
        self._failures = 0
        self._last_key = 0
        self._prefix_hits = 0
        self._ask_waiting_at = 0.0
        # Triton is asked who is gone while the step's answers are sent: both are messages to it to wait for.
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="cancelled")
        self._gone: Future[list[int]] | None = None
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a request into the line; its answers are sent from the loop's thread.

        Raises:
            QueueFullError: As many as allowed wait already, and no place is free.
        """
        with self._changed:
            # Those for whom a place is free do not wait, they have only not been fetched yet.
            waiting = len(self._waiting) - max(0, self._slots - len(self._running))
            if self._closing:
                raise QueueFullError("the model is being unloaded; try again later")
            if self._queue.max_size and waiting >= self._queue.max_size:
                raise QueueFullError(
                    f"{self._slots} sequences run and {max(waiting, 0)} requests wait, "
                    f"as many as queue.max_size allows; try again later"
                )
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Turn away what waits, finish what runs, and close the engine."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._asker.shutdown()
        self._engine.close()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # a bug: without this thread every client would wait for ever
            self._broken(f"the loop of generation ended: {type(error).__name__}: {error}")
            raise

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._closing):
                    self._changed.wait()
                if self._closing and not self._running and not self._waiting:
                    return
            self._turn_away()
            self._drop_cancelled()
            self._admit()
            if self._running:
                started = time.monotonic()
                self._step()
                self._meter.add({BUSY: time.monotonic() - started})
            self._report()

    def _turn_away(self) -> None:
        """Answer those whose time in the line is over, and all of them once the model is unloaded."""
        now = time.monotonic()
        with self._changed:
            waiting = list(self._waiting)
            if self._closing:
                over = waiting
            elif self._queue.timeout_action == "reject":
                over = [job for job in waiting if job.deadline is not None and job.deadline <= now]
            else:
                over = []
            for job in over:
                self._waiting.remove(job)
        for job in over:
            if self._closing:
                job.fail(Failure.UNAVAILABLE, "the model is being unloaded; try again later", self._meter)
            else:
                waited = now - job.arrived
                job.fail(
                    Failure.TIMEOUT,
                    f"the request waited {waited:.3f} s for a free place; try again later",
                    self._meter,
                )

    def _drop_cancelled(self) -> None:
        """Forget requests whose clients are gone."""
        gone, self._gone = self._gone, None
        for key in gone.result() if gone is not None else ():
            job = self._running.pop(key, None)
            if job is not None:  # else it was over with the same step
                self._engine.cancel(key)
                job.fail(Failure.CANCELLED, "the client cancelled the request", self._meter)
        now = time.monotonic()
        if now < self._ask_waiting_at:
            return
        self._ask_waiting_at = now + _ASK_WAITING_S
        with self._changed:
            waiting = list(self._waiting)
        for job in waiting:
            if job.reply.gone():
                with self._changed:
                    self._waiting.remove(job)
                job.fail(Failure.CANCELLED, "the client cancelled the request", self._meter)

    def _admit(self) -> None:
        """Fill the free places, in order of arrival."""
        while len(self._running) < self._slots and (job := self._next()):
            if not self._engine.has_room(len(job.prompt), job.params):
                with self._changed:
                    self._waiting.appendleft(job)
                return
            self._last_key += 1
            try:
                self._engine.add(self._last_key, job.prompt, job.params)
            except RefusedError as error:
                job.fail(Failure.INVALID, str(error), self._meter)
                continue
            job.admitted(self._meter, len(self._running) + 1)
            self._running[self._last_key] = job

    def _next(self) -> Job | None:
        """Take the first in the line; those whose time is over come last (``timeout_action: delay``)."""
        now = time.monotonic()
        with self._changed:
            if not self._waiting:
                return None
            in_time = (job for job in self._waiting if job.deadline is None or job.deadline > now)
            job = next(in_time, self._waiting[0])
            self._waiting.remove(job)
            return job

    def _step(self) -> None:
        """Compute once, and send what came of it."""
        try:
            news = self._engine.step()
        except Exception as error:  # whatever the engine throws concerns all that are in it
            self._fail_all(error)
            return
        self._failures = 0
        self._meter.add({metrics.STEPS: 1})
        ends = {key: self._take(key, progress) for key, progress in news.items() if key in self._running}
        # Triton frees a request with its last response; to ask after it then would end the server.
        over = {key: self._running.pop(key) for key, finish in ends.items() if finish is not None}
        self._gone = self._asker.submit(_gone, dict(self._running))
        for key, job in over.items():
            finish = ends[key]
            if isinstance(finish, str):
                job.fail(Failure.ENGINE, finish, self._meter)
            else:
                job.send(finish, self._meter)
        for key in ends.keys() - over.keys():
            self._running[key].send(None, self._meter)

    def _take(self, key: int, progress: Progress) -> FinishReason | str | None:
        """Add a sequence's news to its answer; how it ends, an error in words, or None if it goes on."""
        if progress.error is not None:
            return _engine_failed(progress.error)
        if self._running[key].take(progress, self._meter):
            if progress.finish is None:
                self._engine.cancel(key)
            return FinishReason.STOP
        return progress.finish

    def _fail_all(self, error: Exception) -> None:
        """Give up all sequences in the engine after a step that failed."""
        message = _engine_failed(error)
        for job in self._running.values():
            job.fail(Failure.ENGINE, message, self._meter)
        self._running.clear()
        self._failures += 1
        if self._failures >= _FAILED_STEPS:
            self._broken(message)
        self._engine.reset()

    def _report(self) -> None:
        """Set the gauges."""
        stats = self._engine.stats()
        self._meter.set(metrics.RUNNING, len(self._running))
        self._meter.set(metrics.WAITING, len(self._waiting))
        self._meter.set(metrics.KV_USED, stats.kv_used if self._running else 0.0)
        self._meter.set(metrics.KV_TOKENS, self._engine.kv_tokens)
        if stats.prefix_hit_tokens is not None:
            self._meter.add({metrics.PREFIX_HITS: stats.prefix_hit_tokens - self._prefix_hits})
            self._prefix_hits = stats.prefix_hit_tokens


def _engine_failed(error: object) -> str:
    """An engine's failure in words, by which ``clients.errors.stream_status`` knows what kind it is."""
    return f"the engine failed: {error}"


def _gone(running: Mapping[int, Job]) -> list[int]:
    """Keys of those whose clients have cancelled or left."""
    return [key for key, job in running.items() if job.reply.gone()]
