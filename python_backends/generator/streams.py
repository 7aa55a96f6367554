"""Sequences that an event loop in a thread of its own awaits, given out in steps.

For engines that schedule in their own threads or processes and answer each request with an asynchronous
stream: the model's loop, which is one thread, starts and cancels sequences here and collects what came.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from .protocol import Progress

Item = TypeVar("Item", covariant=True)
T = TypeVar("T")
WAIT_S = 0.2
_START_S = 30.0  # a request is handed over in less than a millisecond; longer means that the loop is stuck


class Stream(Protocol[Item]):
    """A request in flight."""

    def __aiter__(self) -> AsyncIterator[Item]:
        """Give what comes, until its end."""
        ...

    def abort(self) -> None:
        """Stop it; the stream ends soon."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Running(Generic[Item]):
    """One sequence; compared by identity, so that late news of a cancelled one reaches no other."""

    key: int
    stream: Stream[Item]
    progress: Callable[[Item], Progress]


class Streams(Generic[Item]):
    """Follows streams on an event loop in a background thread."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._news: queue.SimpleQueue[tuple[_Running[Item], Progress]] = queue.SimpleQueue()
        self._running: dict[int, _Running[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Sequences that are neither finished nor cancelled."""
        return len(self._running)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine on the event loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine on the event loop until it ends, or :meth:`close` is called."""
        self._loop.call_soon_threadsafe(lambda: self._keep(self._loop.create_task(work())))

    def start(
        self, key: int, begin: Callable[[], Stream[Item]], progress: Callable[[Item], Progress]
    ) -> None:
        """Begin a stream on the event loop, and follow it.

        Args:
            key: Names the sequence.
            begin: Called on the event loop; what it raises is raised here, and nothing is followed.
            progress: Turns an item into progress, on the event loop, before the next one is awaited.
        """

        async def begun() -> Stream[Item]:
            return begin()

        running = _Running(key, self.call(begun, _START_S), progress)
        self._running[key] = running
        self.spawn(lambda: self._follow(running))

    def cancel(self, key: int) -> None:
        """Abort a stream; what it still sends is dropped. Unknown keys are ignored."""
        running = self._running.pop(key, None)
        if running is not None:
            self._loop.call_soon_threadsafe(running.stream.abort)

    def cancel_all(self) -> None:
        """Abort every stream."""
        for key in list(self._running):
            self.cancel(key)

    def step(self) -> dict[int, Progress]:
        """Give what has come since the last call; waits for news for at most :data:`WAIT_S`.

        Several items of one sequence become one.
        """
        news: dict[int, Progress] = {}
        timeout = WAIT_S
        while self._running:
            try:
                running, progress = self._news.get(timeout=timeout) if timeout else self._news.get_nowait()
            except queue.Empty:
                break
            if self._running.get(running.key) is not running:
                continue
            news[running.key] = _joined(news.get(running.key), progress)
            if progress.finish is not None or progress.error is not None:
                del self._running[running.key]
            timeout = 0.0
        return news

    def close(self) -> None:
        """Abort what runs, and end the thread."""
        for key in list(self._running):
            self.cancel(key)
        self.call(self._stop, _START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _follow(self, running: _Running[Item]) -> None:
        """Queue the progress of one stream; its end without a reason is an error."""
        try:
            async for item in running.stream:
                progress = running.progress(item)
                self._news.put((running, progress))
                if progress.error is not None:
                    running.stream.abort()
                if progress.finish is not None or progress.error is not None:
                    return
            self._news.put((running, Progress(error="the engine ended the sequence without saying why")))
        except Exception as error:  # whatever an engine throws ends this sequence, and only this one
            self._news.put((running, Progress(error=f"{type(error).__name__}: {error}")))
            with contextlib.suppress(Exception):  # it may be gone already
                running.stream.abort()

    async def _stop(self) -> None:
        """Cancel the tasks and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task, as an event loop only refers to it weakly."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _joined(first: Progress | None, second: Progress) -> Progress:
    """Two items of one sequence as one."""
    if first is None:
        return second
    return Progress(
        tokens=(*first.tokens, *second.tokens),
        log_probs=(*first.log_probs, *second.log_probs),
        finish=second.finish,
        error=second.error,
    )
