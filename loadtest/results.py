"""What every load test comes to, whichever tool made the load: one file, read by reports and comparisons.

A run holds one point for each level of load, in the order they were measured, and samples of the server
taken meanwhile. Times are milliseconds, clocks are Unix seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtest.errors import LoadTestError
from tritonforge.errors import first_line
from tritonforge.files import replace_text

FORMAT: Literal[1] = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(_Record):
    """A distribution of times, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float | None = None


class Window(_Record):
    """A short stretch of one point: what differences between runs are judged by.

    Attributes:
        seconds: Its length.
        requests: Answered in it.
        errors: Failed in it.
        p50: Median latency of its requests, milliseconds; None if there was none.
        p99: 99th percentile.
    """

    seconds: float
    requests: int
    errors: int = 0
    p50: float | None = None
    p99: float | None = None


class Point(_Record):
    """One level of load.

    Attributes:
        kind: What ``level`` counts: requests in flight, requests a second that arrive (evenly, or
            ``poisson``), or users of a locust shape.
        level: How many.
        started: When measuring began, Unix seconds.
        seconds: How long was measured.
        requests: Answered.
        errors: Failed; their times are in no latency.
        requests_per_second: Answered, over ``seconds``.
        items_per_second: Texts (encoders) or tokens (generators) answered, over ``seconds``.
        latency: From sending a request to the end of its answer; None if none was answered.
        first_token: Time to first token, where answers stream.
        per_token: Time between tokens after the first, where answers stream.
        stable: Whether the tool found the measurement steady; None where it does not judge.
        error_kinds: How often each message of an error came, at most 20 messages.
        windows: The point in stretches, in order; may be empty.
    """

    kind: Literal["concurrency", "request_rate", "poisson", "users"]
    level: float
    started: float
    seconds: float
    requests: int
    errors: int = 0
    requests_per_second: float
    items_per_second: float
    latency: Latency | None
    first_token: Latency | None = None
    per_token: Latency | None = None
    stable: bool | None = None
    error_kinds: dict[str, int] = Field(default_factory=dict)
    windows: tuple[Window, ...] = ()


class Sample(_Record):
    """The server at one moment, or since the sample before it.

    Attributes:
        at: Unix seconds.
        queue_ms: Mean time in Triton's queues of the requests answered since; None if none.
        compute_ms: Mean time in the engine model.
        batch: Mean batch (requests an execution) of the engine model.
        pending: Requests that wait in queues.
        padding_avoided: Token slots that padding would have added, since.
        cpu: CPUs used by the server's processes (1.0 is one core).
        memory_bytes: Proportional set size of the server's processes, or resident where that is unknown.
        client_cpu: CPUs used by the tool.
    """

    at: float
    queue_ms: float | None = None
    compute_ms: float | None = None
    batch: float | None = None
    pending: float | None = None
    padding_avoided: float | None = None
    cpu: float | None = None
    memory_bytes: int | None = None
    client_cpu: float | None = None


class Machine(_Record):
    """Where a run took place.

    Attributes:
        cpu: Model name.
        cores: CPUs that client and server could use.
        memory_bytes: Of the machine, or of its control group.
        gpu: Names of GPUs.
    """

    cpu: str
    cores: int
    memory_bytes: int
    gpu: tuple[str, ...] = ()


class Setting(_Record):
    """What was loaded, and with what.

    Attributes:
        tool: ``perf_analyzer`` or ``locust``, or a client of our own.
        tool_version: Its version.
        target: What was asked: ``triton-grpc``, ``triton-http``, ``rest``, ``openai``, ``websocket`` or
            ``sse``.
        url: Where.
        model: The model.
        task: ``embedding``, ``classification`` or ``generation``.
        engine: Engine and precision, as the model's config says.
        engine_threads: Threads of the engine, 0 for all cores; None if unknown.
        items_per_request: Texts in a request; for generators, tokens wanted of an answer.
        length_mix: Lengths of the texts in tokens, and their weights.
        corpus: Where the texts come from.
        shared_memory: ``none``, ``system`` or ``cuda``.
        machine: Where.
        server: Version of tritonserver; None if unknown.
        command: The command that repeats the run.
    """

    tool: str
    tool_version: str
    target: str
    url: str
    model: str
    task: str
    engine: str | None = None
    engine_threads: int | None = None
    items_per_request: int = 1
    length_mix: str
    corpus: str
    shared_memory: str = "none"
    machine: Machine
    server: str | None = None
    command: str


class LoadRun(_Record):
    """One load test: ``run.json``."""

    format: Literal[1] = FORMAT
    name: str
    started: float
    setting: Setting
    points: tuple[Point, ...]
    samples: tuple[Sample, ...] = ()


def read_run(path: Path) -> LoadRun:
    """Read ``run.json``, given itself or its folder.

    Raises:
        LoadTestError: It is missing, or no run of this format.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        return LoadRun.model_validate_json(file.read_bytes())
    except OSError as error:
        raise LoadTestError(
            f"cannot be read: {error.strerror}", where=str(file), mend="name a folder that `loadtest` wrote"
        ) from error
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(str(part) for part in wrong["loc"]) or first_line(error)
        raise LoadTestError(
            f"is no run of format {FORMAT}: {key}: {wrong['msg']}",
            where=str(file),
            mend="run the load test again",
        ) from error


def write_run(run: LoadRun, folder: Path) -> Path:
    """Write ``run.json`` into a folder, whole or not at all; the folder is made.

    Returns:
        The file.

    Raises:
        LoadTestError: It cannot be written.
    """
    file = folder / "run.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(file, run.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise LoadTestError(
            f"cannot be written: {error.strerror or error}", where=str(file), mend="name another --output"
        ) from error
    return file
