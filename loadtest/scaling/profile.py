"""What was measured of one server: the times of its batches, by which everything else is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtest.errors import LoadTestError
from loadtest.results import Setting
from tritonforge.errors import first_line
from tritonforge.files import replace_text

Floats = NDArray[np.float64]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchTime(_Record):
    """Executions of one batch size.

    Attributes:
        batch: Texts.
        seconds: Mean time of an execution.
        count: Executions seen.
    """

    batch: int = Field(ge=1)
    seconds: float = Field(gt=0)
    count: int = Field(ge=1)


class LengthTime(_Record):
    """The engine's time of one text of a length.

    Attributes:
        tokens: Its length.
        weight: Share of such texts.
        seconds: Mean time alone in a batch.
    """

    tokens: int
    weight: float
    seconds: float = Field(gt=0)


class Stage(_Record):
    """A model that requests pass, with a queue of its own before it.

    Attributes:
        model: Its name.
        instances: That work side by side.
        max_batch: Texts of a batch at most.
        delay_s: How long a batch that is not full waits for company.
        max_queue: Requests that may wait; 0: no bound.
        times: By batch size.
    """

    model: str
    instances: int = Field(ge=1)
    max_batch: int = Field(ge=1)
    delay_s: float = Field(default=0.0, ge=0)
    max_queue: int = Field(default=0, ge=0)
    times: tuple[BatchTime, ...] = Field(min_length=1)

    def table(self) -> Floats:
        """Seconds of each batch size from 1 to the largest, float64 [max_batch].

        Monotone, and as near as can be to what was seen, each size weighted by how often it was. Between
        and beyond the sizes that were seen it goes on straight.
        """
        from scipy.optimize import isotonic_regression

        times = sorted(self.times, key=lambda time: time.batch)
        sizes = np.array([time.batch for time in times], dtype=np.float64)
        weights = np.array([time.count for time in times], dtype=np.float64)
        seen = isotonic_regression([time.seconds for time in times], weights=weights).x
        wanted = np.arange(1, self.max_batch + 1, dtype=np.float64)
        filled = np.interp(wanted, sizes, seen)
        # np.interp ends flat: a batch larger than any that was seen would cost nothing more.
        slope = max(0.0, _slope(sizes, seen, weights))
        beyond = wanted > sizes[-1]
        filled[beyond] = seen[-1] + slope * (wanted[beyond] - sizes[-1])
        return np.asarray(filled)


class Level(_Record):
    """A closed loop that was measured.

    Attributes:
        in_flight: Requests in flight.
        rate: Requests a second.
        mean_ms: Mean latency.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        cores: CPUs that the server used.
        others: CPUs that neither it nor the client used, but somebody else.
    """

    in_flight: int
    rate: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    cores: float
    others: float = 0.0


class Profile(_Record):
    """One server, as it was measured: ``profile.json``.

    Attributes:
        setting: Model, engine, machine, and the command that measures again.
        stages: In the order in which a request passes them; the last one is the engine.
        lengths: What a text of each length of the mix costs the engine.
        overhead_s: Of a lone request, beside the stages: network, serialization, ensemble.
        jitter: Standard deviation of the logarithm of a time that should be constant.
        levels: Closed loops.
        start_s: From the start of the process until it is ready.
        repository_bytes: Files of the model and its parts.
        memory_bytes: Proportional set size under load.
        gateway_cpu_s: CPU of Envoy and facade for one ``POST /embed``; None: not measured.
    """

    format: Literal[1] = 1
    setting: Setting
    stages: tuple[Stage, ...] = Field(min_length=1)
    lengths: tuple[LengthTime, ...] = ()
    overhead_s: float = Field(ge=0)
    jitter: float = Field(default=0.0, ge=0)
    levels: tuple[Level, ...] = ()
    start_s: float = Field(ge=0)
    repository_bytes: int = Field(ge=0)
    memory_bytes: int = Field(ge=0)
    gateway_cpu_s: float | None = None

    def cores_at(self, rate: float) -> float:
        """CPUs that one server uses at a rate, by the closed loops."""
        seen = sorted((level.rate, level.cores) for level in self.levels)
        if not seen:
            return 0.0
        rates, cores = zip((0.0, 0.0), *seen, strict=True)
        # More load takes no less: what a loop says otherwise, others took.
        return float(np.interp(rate, rates, np.maximum.accumulate(cores)))


def _slope(sizes: Floats, seconds: Floats, weights: Floats) -> float:
    """Of the straight line through all sizes; of the lone one through zero."""
    if len(sizes) == 1:
        return float(seconds[0] / sizes[0])
    return float(np.polyfit(sizes, seconds, 1, w=np.sqrt(weights))[0])


def batch_times(before: Mapping[int, tuple[int, int]], now: Mapping[int, tuple[int, int]]) -> list[BatchTime]:
    """What happened between two looks at Triton's statistics of a model.

    Args:
        before: By batch size: executions, and their nanoseconds in all.
        now: The same, later.
    """
    found = []
    for batch, (count, nanoseconds) in sorted(now.items()):
        old_count, old_nanoseconds = before.get(batch, (0, 0))
        if count > old_count:
            mean = (nanoseconds - old_nanoseconds) / (count - old_count) / 1e9
            found.append(BatchTime(batch=batch, seconds=max(mean, 1e-9), count=count - old_count))
    return found


def read_profile(path: Path) -> Profile:
    """Read ``profile.json``.

    Raises:
        LoadTestError: It is missing, or no profile of this format.
    """
    mend = "measure one: python -m loadtest.scaling measure --model MODEL"
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LoadTestError(f"cannot be read: {error.strerror}", where=str(path), mend=mend) from error
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(str(part) for part in wrong["loc"]) or first_line(error)
        raise LoadTestError(f"is no profile: {key}: {wrong['msg']}", where=str(path), mend=mend) from error


def write_profile(profile: Profile, path: Path) -> None:
    """Write ``profile.json``, whole or not at all.

    Raises:
        LoadTestError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, profile.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise LoadTestError(
            f"cannot be written: {error.strerror or error}", where=str(path), mend="name another --output"
        ) from error
