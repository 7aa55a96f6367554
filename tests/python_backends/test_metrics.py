from __future__ import annotations

import threading
import time

from python_backends.metrics import Counters


class Total:
    def __init__(self) -> None:
        self.value = 0.0
        self.calls = 0

    def increment(self, value: float) -> None:
        self.value += value
        self.calls += 1


def test_counts_arrive_in_the_background_and_zero_is_not_sent() -> None:
    tokens, idle = Total(), Total()
    counters = Counters({"tokens": tokens, "idle": idle}, interval=0.01)
    counters.add({"tokens": 5, "idle": 0})
    deadline = time.monotonic() + 5
    while tokens.value < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tokens.value == 5
    assert idle.calls == 0
    counters.close()


def test_close_hands_over_the_rest_and_many_adds_become_few_increments() -> None:
    tokens = Total()
    counters = Counters({"tokens": tokens}, interval=60)

    def count() -> None:
        for _ in range(1000):
            counters.add({"tokens": 1})

    workers = [threading.Thread(target=count) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counters.close()
    assert tokens.value == 4000
    assert tokens.calls == 1
