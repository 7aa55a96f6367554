from __future__ import annotations

import json
import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from python_backends import metrics
from python_backends.metrics import Meters, Registry


class Total:
    """A metric of Triton's, which adds up."""

    def __init__(self, labels: dict[str, str], buckets: list[float] | None = None) -> None:
        self.labels = labels
        self.value = 0.0
        self.calls = 0
        self.seen: list[float] = []

    def increment(self, value: float) -> None:
        self.value += value
        self.calls += 1

    def set(self, value: float) -> None:
        self.value = value

    def observe(self, value: float) -> None:
        self.seen.append(value)


class Family:
    """A family of Triton's metrics."""

    COUNTER, GAUGE, HISTOGRAM = range(3)
    Metric = Total

    def __init__(self, name: str, description: str, kind: int) -> None:
        pass


def registry(**parameters: str) -> Registry:
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    args = {
        "model_name": "toy",
        "model_version": "3",
        "model_instance_name": "toy_0_0",
        "model_config": json.dumps(config),
    }
    return Registry(SimpleNamespace(MetricFamily=Family), args)


def total(made: Registry, key: str) -> Any:
    return made.metrics[key]


def test_counts_arrive_in_the_background_and_zero_is_not_sent() -> None:
    made = registry()
    made.counter("tokens", "")
    made.counter("idle", "")
    meters = Meters(made, interval=0.01)
    meters.add({"tokens": 5, "idle": 0})
    deadline = time.monotonic() + 60
    while total(made, "tokens").value < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert total(made, "tokens").value == 5
    assert total(made, "idle").calls == 0
    meters.close()


def test_close_hands_over_the_rest_and_many_adds_become_few_increments() -> None:
    made = registry()
    made.counter("tokens", "")
    meters = Meters(made, interval=60)

    def count() -> None:
        for _ in range(1000):
            meters.add({"tokens": 1})

    workers = [threading.Thread(target=count) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    meters.close()
    assert total(made, "tokens").value == 4000
    assert total(made, "tokens").calls == 1


def test_a_tally_is_a_histogram_of_counters() -> None:
    made = registry()
    made.tally("batch", "", (1, 4))
    meters = Meters(made, interval=60)
    meters.add({}, {"batch": [1, 2, 4]})
    meters.observe("batch", 9)
    meters.close()
    buckets = {total(made, f"batch_bucket:{le}").labels["le"]: le for le in ("1", "4", "+Inf")}
    assert [total(made, f"batch_bucket:{buckets[le]}").value for le in ("1", "4", "+Inf")] == [1, 3, 4]
    assert total(made, "batch_sum").value == 16
    assert total(made, "batch_count").value == 4
    assert total(made, "batch_count").labels == {"model": "toy", "version": "3"}


def test_a_histogram_gets_each_value() -> None:
    made = registry()
    made.histogram("seconds", "", (0.1, 1))
    meters = Meters(made, interval=60)
    meters.observe("seconds", 0.5)
    meters.observe("seconds", 0.7)
    meters.close()
    assert total(made, "seconds").seen == [0.5, 0.7]


def test_the_stub_tells_of_itself() -> None:
    made = registry()
    meters = Meters(made, interval=0.01)
    deadline = time.monotonic() + 60
    while not total(made, metrics.STUB_MEMORY).value and time.monotonic() < deadline:
        time.sleep(0.01)
    process = psutil.Process(os.getpid())
    assert total(made, metrics.STUB_MEMORY).value == pytest.approx(process.memory_info().rss, rel=0.2)
    assert total(made, metrics.STUB_START).value == pytest.approx(process.create_time(), abs=2)
    meters.close()
    cpu = process.cpu_times()
    assert total(made, metrics.STUB_CPU).value == pytest.approx(cpu.user + cpu.system, abs=0.5)
    assert total(made, metrics.STUB_CPU).labels["model_instance"] == "toy_0_0"
    # Triton goes on showing gauges of a model that is gone.
    assert (total(made, metrics.STUB_START).value, total(made, metrics.STUB_MEMORY).value) == (0, 0)


@pytest.mark.parametrize(("parameters", "restarts"), [({}, 0), ({metrics.RELOAD_PARAMETER: "17"}, 1)])
def test_a_load_by_the_watchdog_counts_as_a_restart(parameters: dict[str, str], restarts: int) -> None:
    made = registry(**parameters)
    Meters(made, interval=60).close()
    assert total(made, metrics.STUB_RESTARTS).value == restarts
