"""How long a replica takes to come, and what it costs: pods that start, and the nodes they start on."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

from loadtest.scaling.profile import Profile


@dataclass(frozen=True)
class Platform:
    """What pods run on.

    Attributes:
        pods_per_node: Replicas that fit.
        node_price: Of a node, an hour; the currency is yours.
        schedule_s: From the autoscaler's word to a pod on a node that has room.
        node_s: From a pod without room to a new node that is ready.
        pull_s: A new node fetches the image; nodes that have it do not.
        fetch_bytes_per_s: At which the model repository comes.
        start_s: Server from its start to ready, as measured.
        repository_bytes: Of the model repository.
        probe_s: Until a readiness probe and the balancer have noticed.
        node_idle_s: A node without pods is given back after so long.
        spare_nodes: Nodes that are kept ready beyond those in use.
    """

    pods_per_node: int = 1
    node_price: float = 0.20
    schedule_s: float = 2.0
    node_s: float = 90.0
    pull_s: float = 20.0
    fetch_bytes_per_s: float = 100e6
    start_s: float = 10.0
    repository_bytes: int = 0
    probe_s: float = 5.0
    node_idle_s: float = 600.0
    spare_nodes: int = 0

    @classmethod
    def of(cls, profile: Profile, **more: float) -> Platform:
        """With the start and the size that were measured."""
        known = {"start_s": profile.start_s, "repository_bytes": profile.repository_bytes}
        return cls(**{**known, **more})  # type: ignore[arg-type]  # values of mixed types

    def cold_start_s(self) -> float:
        """From the autoscaler's word to a pod that takes requests, on a node that is up and has the image."""
        fetch = self.repository_bytes / self.fetch_bytes_per_s
        return self.schedule_s + fetch + self.start_s + self.probe_s


class Pods:
    """Pods and nodes at one moment; pods fill the nodes in order.

    Args:
        platform: What they run on.
        ready: Pods that serve at the beginning, on nodes that are up.

    Attributes:
        ready: Pods that serve.
        started: Pods that were started since the beginning.
        node_seconds: Paid for until now.
    """

    def __init__(self, platform: Platform, ready: int) -> None:
        """Nodes for those that are there, and the spare ones, all up."""
        self.ready = ready
        self.started = 0
        self.node_seconds = 0.0
        self._platform = platform
        self._due: list[float] = []  # when pods that start will be ready
        self._up: list[float] = [0.0] * self._wanted_nodes()  # when each node is up
        self._idle_since: float | None = None

    @property
    def starting(self) -> int:
        """Pods that were asked for and do not serve yet."""
        return len(self._due)

    @property
    def nodes(self) -> int:
        """Nodes that are paid for."""
        return len(self._up)

    def step(self, now: float, seconds: float) -> None:
        """Let time pass: pods become ready, nodes are paid for, idle ones given back."""
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
            self.ready += 1
        self.node_seconds += self.nodes * seconds
        wanted = self._wanted_nodes()
        if self.nodes <= wanted:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self._platform.node_idle_s:
            del self._up[wanted:]
            self._idle_since = None

    def resize(self, now: float, replicas: int) -> None:
        """Start pods, or stop them: those first that do not serve yet."""
        platform = self._platform
        for _ in range(replicas - self.ready - self.starting):
            place = (self.ready + self.starting) // platform.pods_per_node
            missing = place + 1 + platform.spare_nodes - self.nodes
            self._up += [now + platform.node_s + platform.pull_s] * missing
            at = max(now, self._up[place]) + platform.cold_start_s()
            heapq.heappush(self._due, at)
            self.started += 1
        surplus = self.ready + self.starting - replicas
        if surplus > 0:
            unborn = min(surplus, self.starting)
            self._due = sorted(self._due)[: self.starting - unborn]
            self.ready -= surplus - unborn

    def _wanted_nodes(self) -> int:
        pods = self.ready + self.starting
        return math.ceil(pods / self._platform.pods_per_node) + self._platform.spare_nodes
