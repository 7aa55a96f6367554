"""The load of a trial: the real perf_analyzer, with our texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import LoadTestError
from loadtest.perf_analyzer import Plan, run
from loadtest.results import Point
from loadtest.tune.goal import Look
from tritonforge.server import TritonServer

_WARM_UP_S = 0.3  # of each level; the server's own is the first look
_TOO_SHORT = "No valid requests recorded"
_LONGER = 5


@dataclass(frozen=True)
class Load:
    """What is sent to every server of a search, over gRPC.

    Attributes:
        tool: perf_analyzer's launcher.
        model: What clients call.
        generates: Whether it answers with streams.
        length_mix: As :meth:`loadtest.corpus.LengthMix.parse` reads it; None: that of prompts.
        items: Texts in a request; of generators, tokens of an answer.
    """

    tool: Path
    model: str
    generates: bool
    length_mix: str | None
    items: int

    def __call__(self, server: TritonServer, level: int, *, seconds: float, seed: int) -> Look:
        """Measure a running server.

        Args:
            server: It runs.
            level: Requests in flight.
            seconds: To measure.
            seed: Of the texts.

        Raises:
            LoadTestError: The tool failed, or nothing was answered.
        """
        plan = Plan(
            model=self.model,
            url=server.grpc_url,
            levels=(level,),
            duration_s=seconds,
            warm_up_s=_WARM_UP_S,
            length_mix=self.length_mix,
            seed=seed,
            texts_per_request=1 if self.generates else self.items,
            tokens=self.items if self.generates else 64,
        )
        point = self._point(plan)
        times = point.first_token if self.generates else point.latency
        if times is None or not point.items_per_second:
            raise LoadTestError(
                f"nothing was answered in {seconds:g} s with {level} in flight", mend="give more --seconds"
            )
        return Look(level=level, items_per_second=point.items_per_second, p50_ms=times.p50, p99_ms=times.p99)

    def _point(self, plan: Plan) -> Point:
        """Run perf_analyzer, longer if need be: it gives up if a third of the time brings no answer."""
        try:
            return run(plan, tool=self.tool).points[0]
        except LoadTestError as error:
            if _TOO_SHORT not in error.what:
                raise
        try:
            longer = plan.model_copy(update={"duration_s": _LONGER * plan.duration_s})
            return run(longer, tool=self.tool).points[0]
        except LoadTestError as error:
            if _TOO_SHORT not in error.what:
                raise
            raise LoadTestError(
                f"with {plan.levels[0]:g} in flight there is no answer for seconds",
                where=error.where,
                mend="give more --seconds, a lower --concurrency, or for generators fewer --items",
            ) from error
