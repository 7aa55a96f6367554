"""Live figures of the models, from the counters that Triton keeps.

Behind Envoy a pool may have many servers, each with counters of its own, and each call reaches one of them.
Envoy names it in a header of the answer, so that counters of one server are compared with its own only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import grpc.aio
import structlog
from tritonclient.grpc.service_pb2 import ModelStatistics, ModelStatisticsRequest

from gateway.identity import POOL_HEADER, SERVER_HEADER
from gateway.triton.channel import TritonChannel
from gateway.triton.models import Model, ModelDirectory

logger = structlog.get_logger(__name__)

WINDOW_S = 10.0
_FRESH_S = 1.0
_CALL_S = 2.0
_NS = 1e-6  # milliseconds


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What one model does.

    Attributes:
        task: What it is for.
        requests: Answered since its server started (of the servers heard within the window).
        failures: Failed since then.
        requests_per_s: Within the window; null until it has been looked at twice, as all that follow.
        batch_size: Texts that the engine computed at once, mean; null without any, and for generators, whose
            batches change with every token.
        queue_ms: Mean wait of a request for the engine.
        compute_ms: Mean time of a request in the engine.
    """

    task: str
    requests: int
    failures: int
    requests_per_s: float | None
    batch_size: float | None
    queue_ms: float | None
    compute_ms: float | None


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counters of a model, on one server or summed."""

    requests: int = 0
    failures: int = 0
    texts: int = 0
    batches: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    @classmethod
    def from_message(cls, message: ModelStatistics) -> _Counts:
        stats = message.inference_stats
        return cls(
            stats.success.count,
            stats.fail.count,
            message.inference_count,
            message.execution_count,
            stats.queue.ns,
            stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns,
        )

    def plus(self, other: _Counts, sign: int = 1) -> _Counts:
        mine, others = _numbers(self), _numbers(other)
        return _Counts(*(a + sign * b for a, b in zip(mine, others, strict=True)))


def _numbers(counts: _Counts) -> tuple[int, ...]:
    return (
        counts.requests,
        counts.failures,
        counts.texts,
        counts.batches,
        counts.queue_ns,
        counts.compute_ns,
    )


_Look = tuple[float, Mapping[str, _Counts]]
"""When a server was asked, and its models' counters."""


class Statistics:
    """Figures of all served models, read when somebody asks.

    Args:
        channel: The way to the servers.
        models: What is served.
    """

    def __init__(self, channel: TritonChannel, models: ModelDirectory) -> None:
        """Know nothing yet."""
        self._channel = channel
        self._models = models
        self._looks: dict[tuple[str, str], deque[_Look]] = {}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def read(self) -> dict[str, ModelFigures]:
        """Figures by model, a second old at most. Pools that do not answer leave theirs out."""
        async with self._lock:
            if time.monotonic() - self._asked > _FRESH_S:
                if self._models.faults:
                    await self._models.ask_again()
                pools = {model.pool for model in self._models.models.values()}
                await asyncio.gather(*(self._look(pool) for pool in pools))
                self._asked = time.monotonic()
        figures = {name: self._figures(model) for name, model in self._models.models.items()}
        return {name: found for name, found in figures.items() if found is not None}

    async def _look(self, pool: str) -> None:
        """Ask a server of a pool, and forget what is too old to compare with."""
        call = self._channel.stub.ModelStatistics(
            ModelStatisticsRequest(), timeout=_CALL_S, metadata=[(POOL_HEADER, pool)]
        )
        try:
            answer = await call
            metadata = dict(await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            logger.warning("statistics_not_read", pool=pool, reason=error.details())
            return
        now = time.monotonic()
        counts = {entry.name: _Counts.from_message(entry) for entry in answer.model_stats}
        looks = self._looks.setdefault((pool, metadata.get(SERVER_HEADER, "")), deque())
        if looks and _restarted(looks[-1][1], counts):
            looks.clear()
        looks.append((now, counts))
        for key, known in list(self._looks.items()):
            while known and now - known[0][0] > WINDOW_S:
                known.popleft()
            if not known:
                del self._looks[key]

    def _figures(self, model: Model) -> ModelFigures | None:
        """What the servers of a model's pool did within the window."""
        engine = f"{model.name}_engine"
        total, done, engine_done = _Counts(), _Counts(), _Counts()
        per_second = 0.0
        heard = compared = False
        for (pool, _), looks in self._looks.items():
            (then, first), (now, last) = looks[0], looks[-1]
            if pool != model.pool or model.name not in last:
                continue
            heard = True
            total = total.plus(last[model.name])
            if now > then and model.name in first:
                compared = True
                part = engine if engine in last and engine in first else model.name
                change = last[model.name].plus(first[model.name], -1)
                done = done.plus(change)
                engine_done = engine_done.plus(last[part].plus(first[part], -1))
                per_second += change.requests / (now - then)
        if not heard:
            return None
        asked = engine_done.requests
        generates = model.task == "generation"
        return ModelFigures(
            model.task,
            total.requests,
            total.failures,
            round(per_second, 2) if compared else None,
            round(engine_done.texts / engine_done.batches, 2)
            if engine_done.batches and not generates
            else None,
            round(engine_done.queue_ns / asked * _NS, 3) if asked else None,
            round(engine_done.compute_ns / asked * _NS, 3) if asked else None,
        )


def _restarted(before: Mapping[str, _Counts], now: Mapping[str, _Counts]) -> bool:
    """Whether counters fell, as they do when a server starts anew or a model is loaded again."""
    return any(name in now and now[name].requests < counts.requests for name, counts in before.items())
