"""Servers, simulated request by request: each stage takes batches as Triton's dynamic batcher forms them.

A stage whose instance becomes free takes all that wait, up to its largest batch; a request is answered when
the last stage has computed it. Several servers are chosen as the gateway's Envoy does: of four that are drawn
by lot, the one with the fewest requests in flight.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loadtest.scaling.profile import Floats, Profile

_DRAWN = 4
_DONE, _TIMER, _TICK = 0, 1, 2


@dataclass(frozen=True)
class Timing:
    """A stage, ready to be simulated.

    Attributes:
        instances: That work side by side.
        max_batch: Texts of a batch at most.
        delay_s: How long a batch that is not full waits for company.
        max_queue: Requests that may wait; 0: no bound.
        table: Mean seconds of batches of 1, 2, … texts.
        fixed_s: Part of each that does not grow with what the texts cost.
        jitter: Standard deviation of the logarithm of a time.
    """

    instances: int
    max_batch: int
    delay_s: float
    max_queue: int
    table: tuple[float, ...]
    fixed_s: float = 0.0
    jitter: float = 0.0

    @property
    def capacity(self) -> float:
        """Texts a second when every batch is full."""
        return self.instances * self.max_batch / self.table[-1]


@dataclass(frozen=True)
class Node:
    """One server, ready to be simulated.

    Attributes:
        stages: In the order in which a request passes them.
        overhead_s: Added to each latency.
        costs: What a text of each length costs the last stage, over the mean.
        weights: Shares of these.
    """

    stages: tuple[Timing, ...]
    overhead_s: float = 0.0
    costs: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, profile: Profile) -> Node:
        """From what was measured: the spread of lengths is the engine's, the last stage."""
        costs, weights, fixed_s = _costs(profile)
        last = len(profile.stages) - 1
        stages = []
        for number, stage in enumerate(profile.stages):
            table = tuple(stage.table().tolist())
            # A fixed part that is larger than the whole would make long texts cheaper.
            fixed = min(fixed_s, table[0]) if number == last else 0.0
            jitter = profile.jitter if number == last else 0.0
            stages.append(
                Timing(stage.instances, stage.max_batch, stage.delay_s, stage.max_queue, table, fixed, jitter)
            )
        return cls(tuple(stages), profile.overhead_s, costs, weights)

    @property
    def capacity(self) -> float:
        """Texts a second that its narrowest stage takes in full batches."""
        return min(stage.capacity for stage in self.stages)

    def draw_costs(self, count: int, rng: np.random.Generator) -> list[float]:
        """What each of so many texts costs, over the mean."""
        if len(self.costs) == 1:
            return [self.costs[0]] * count
        drawn: list[float] = rng.choice(np.array(self.costs), size=count, p=np.array(self.weights)).tolist()
        return drawn


@dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        latency: Seconds of each, in the order of arrival; NaN: refused, for a queue was full or nobody there.
        batches: Executions of the last stage, and their texts in all.
        busy_s: Time that instances of the last stage worked.
        waiting_s: Integral of the requests that wait in queues, over time.
    """

    latency: Floats
    batches: list[int] = field(default_factory=lambda: [0, 0])
    busy_s: float = 0.0
    waiting_s: float = 0.0


class Replica:
    """One server's state."""

    __slots__ = ("idle", "in_flight", "queues", "waiting")

    def __init__(self, node: Node) -> None:
        """Start idle."""
        self.queues: list[deque[int]] = [deque() for _ in node.stages]
        self.idle = [stage.instances for stage in node.stages]
        self.in_flight = 0
        self.waiting = 0


class Cluster:
    """Servers of one kind behind a balancer.

    Args:
        node: Each of them.
        replicas: How many at first.
        seed: Of everything that is drawn.

    Attributes:
        replicas: Those that take requests; one that is removed answers what it has.
        now: Seconds.
        arrived: Requests until now.
    """

    def __init__(self, node: Node, replicas: int = 1, seed: int = 0) -> None:
        """Start all of them, idle."""
        self.node = node
        self.replicas = [Replica(node) for _ in range(replicas)]
        self.now = 0.0
        self.arrived = 0
        self._random = random.Random(seed)
        self._rng = np.random.default_rng(seed)
        self._heap: list[tuple[float, int, int, Replica | None, int, list[int]]] = []
        self._number = 0

    def resize(self, count: int) -> None:
        """Add servers, idle, or take requests from the newest no more."""
        del self.replicas[count:]
        self.replicas += [Replica(self.node) for _ in range(count - len(self.replicas))]

    def pending(self) -> int:
        """Requests that wait in queues of servers that take requests."""
        return sum(replica.waiting for replica in self.replicas)

    def run(
        self,
        arrivals: Sequence[float] | NDArray[np.float64],
        on_tick: Callable[[Cluster], None] | None = None,
        tick_s: float = 1.0,
    ) -> Outcome:
        """Answer requests that come at given times, until the last is answered.

        Args:
            arrivals: Seconds, in order.
            on_tick: Called every ``tick_s`` while requests come; may :meth:`resize`.
            tick_s: From one call to the next.
        """
        self._times = np.asarray(arrivals, dtype=np.float64).tolist()
        self._entered = list(self._times)
        self._costs = self.node.draw_costs(len(self._times), self._rng)
        self._outcome = Outcome(np.full(len(self._times), np.nan))
        end = self._times[-1] if self._times else 0.0
        if on_tick is not None:
            self._push(tick_s, _TICK, None, 0, [])
        heap, times = self._heap, self._times
        while heap or self.arrived < len(times):
            if self.arrived < len(times) and (not heap or times[self.arrived] <= heap[0][0]):
                self.now = times[self.arrived]
                self.arrived += 1
                self._arrive(self.arrived - 1)
                continue
            self.now, _, kind, replica, stage, batch = heapq.heappop(heap)
            if kind == _TICK:
                assert on_tick is not None
                on_tick(self)
                if self.now + tick_s <= end:
                    self._push(self.now + tick_s, _TICK, None, 0, [])
            elif replica is not None:
                if kind == _DONE:
                    self._done(replica, stage, batch)
                else:
                    self._start(replica, stage)
        return self._outcome

    def _arrive(self, request: int) -> None:
        if not self.replicas:
            return
        replica = self.replicas[0]
        if len(self.replicas) > 1:
            drawn = self._random.choices(self.replicas, k=_DRAWN)
            replica = min(drawn, key=lambda one: one.in_flight)
        bound = self.node.stages[0].max_queue
        if bound and len(replica.queues[0]) >= bound:
            return
        replica.in_flight += 1
        self._enqueue(replica, 0, [request])

    def _enqueue(self, replica: Replica, stage: int, batch: list[int]) -> None:
        for each in batch:
            self._entered[each] = self.now
        replica.queues[stage].extend(batch)
        replica.waiting += len(batch)
        self._start(replica, stage)

    def _start(self, replica: Replica, number: int) -> None:
        stage, queue = self.node.stages[number], replica.queues[number]
        while queue and replica.idle[number]:
            if stage.delay_s and len(queue) < stage.max_batch:
                due = self._entered[queue[0]] + stage.delay_s
                if due > self.now:
                    self._push(due, _TIMER, replica, number, [])
                    return
            batch = [queue.popleft() for _ in range(min(len(queue), stage.max_batch))]
            replica.waiting -= len(batch)
            replica.idle[number] -= 1
            seconds = self._seconds(number, batch)
            self._push(self.now + seconds, _DONE, replica, number, batch)
            self._outcome.waiting_s += sum(self.now - self._entered[each] for each in batch)
            if number == len(self.node.stages) - 1:
                self._outcome.batches[0] += 1
                self._outcome.batches[1] += len(batch)
                self._outcome.busy_s += seconds

    def _seconds(self, number: int, batch: list[int]) -> float:
        stage = self.node.stages[number]
        mean = stage.table[len(batch) - 1]
        if number == len(self.node.stages) - 1:
            work = sum(self._costs[each] for each in batch) / len(batch)
            mean = stage.fixed_s + (mean - stage.fixed_s) * work
        if stage.jitter:  # its mean is 1
            mean *= self._random.lognormvariate(-(stage.jitter**2) / 2, stage.jitter)
        return mean

    def _done(self, replica: Replica, number: int, batch: list[int]) -> None:
        replica.idle[number] += 1
        if number + 1 < len(self.node.stages):
            self._enqueue(replica, number + 1, batch)
        else:
            replica.in_flight -= len(batch)
            for each in batch:
                self._outcome.latency[each] = self.now - self._times[each] + self.node.overhead_s
        self._start(replica, number)

    def _push(self, at: float, kind: int, replica: Replica | None, stage: int, batch: list[int]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at, self._number, kind, replica, stage, batch))


def _costs(profile: Profile) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Costs of texts over the mean, their shares, and the part of a lone text's time that none of them makes.

    The fixed part is where a straight line through the lengths begins.
    """
    if len(profile.lengths) < 2:
        return (1.0,), (1.0,), 0.0
    tokens = np.array([length.tokens for length in profile.lengths], dtype=np.float64)
    seconds = np.array([length.seconds for length in profile.lengths])
    weights = np.array([length.weight for length in profile.lengths])
    weights = weights / weights.sum()
    fixed = float(np.clip(np.polyfit(tokens, seconds, 1)[1], 0.0, seconds.min() * 0.95))
    costs = (seconds - fixed) / float(weights @ (seconds - fixed))
    return tuple(costs.tolist()), tuple(weights.tolist()), fixed
