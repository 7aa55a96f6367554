"""Runs locust headless in a process of its own, stage by stage, while the server is watched."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from loadtest import corpus
from loadtest.errors import LoadTestError
from loadtest.recording import read_records, read_stages
from loadtest.records import is_steady, point_of
from loadtest.results import LoadRun, Setting
from loadtest.sampling import Sampler, Watch
from loadtest.served import Served, ask_gateway, ask_triton, this_machine
from loadtest.shapes import ShapeName, Stage, stages_of
from tritonforge.errors import UsageError
from tritonforge.server.ports import free_ports

Target = Literal["triton-grpc", "triton-http", "rest", "openai", "websocket", "sse"]

#: Locust's users of each target: for encoders, and for generators; None where the protocol is not for them.
USERS: dict[Target, tuple[str | None, str | None]] = {
    "triton-grpc": ("GrpcUser", "GrpcStreamUser"),
    "triton-http": ("HttpUser", None),
    "rest": ("RestUser", "RestUser"),
    "openai": ("OpenAiUser", "OpenAiUser"),
    "websocket": (None, "WebSocketUser"),
    "sse": (None, "SseUser"),
}
_FILE = Path(__file__).parent / "locustfile.py"
_STOP_S = 30  # how long requests in flight may take at the end
_GRACE_S = 60.0


class LocustPlan(BaseModel):
    """One run of locust.

    Attributes:
        model: The model to load.
        target: Which way.
        url: ``host:port`` of tritonserver, or the base URL of a gateway.
        shape: How the number of users goes on.
        users: Of its stages.
        duration_s: Seconds measured in each stage.
        warm_up_s: Seconds of each stage before that.
        length_mix: As of :class:`loadtest.perf_analyzer.Plan`.
        texts_file: Texts to send instead, one a line.
        texts_per_request: Of encoders.
        tokens: Of each answer of a generator; over REST at most so many.
        timeout_s: After which a request has failed.
        processes: Of locust; users are spread over them.
        stability_percent: How much the thirds of a stage may differ to be called stable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    target: Target = "triton-grpc"
    url: str = Field(min_length=1)
    shape: ShapeName = "steps"
    users: tuple[int, ...] = (1, 4, 16)
    duration_s: float = Field(default=10.0, gt=0)
    warm_up_s: float = Field(default=1.0, ge=0)
    length_mix: str | None = None
    texts_file: Path | None = None
    texts_per_request: int = Field(default=1, ge=1)
    tokens: int = Field(default=64, ge=1)
    timeout_s: float = Field(default=60.0, gt=0)
    processes: int = Field(default=1, ge=1)
    stability_percent: float = Field(default=20.0, gt=0)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of its shape.

        Raises:
            UsageError: Shape and users do not fit.
        """
        return stages_of(self.shape, self.users, self.duration_s, self.warm_up_s)


def run(
    plan: LocustPlan,
    *,
    name: str | None = None,
    watch: Watch | None = None,
    served: Served | None = None,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> LoadRun:
    """Load a model in a shape, and watch its server meanwhile.

    Credentials for a gateway are those of the environment (:mod:`loadtest.credentials`).

    Args:
        plan: What to do.
        name: Of the run; the model's if None.
        watch: The server's metrics and processes; None: they are not looked at.
        served: The model, where it was asked about already.
        command: The command that repeats the run, for the report.
        progress: Is told what goes on.

    Raises:
        UsageError: The plan cannot be carried out on this model.
        LoadTestError: Nobody answers, there is no such model, or locust failed.
    """
    stages = plan.stages
    if served is None:
        triton = {"triton-grpc": "grpc", "triton-http": "http", "sse": "http"}.get(plan.target)
        served = ask_triton(plan.url, triton, plan.model) if triton else ask_gateway(plan.url, plan.model)
    mix = plan.length_mix or (corpus.PROMPT_MIX if served.generates else corpus.DEFAULT_MIX)
    corpus.parse_mix(mix)
    if plan.texts_file:
        corpus.read_texts(plan.texts_file)
        mix = "as in the file"
    words = arguments(plan, served)
    running: list[int] = []
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="locust-") as folder:
        with Sampler(
            watch or Watch(), served.parts or (plan.model,), lambda: running[0] if running else None
        ) as seen:
            wanted = ", ".join(str(stage.users) for stage in stages)
            progress(f"{plan.shape}: {wanted} users, {stages[0].whole_s:g} s each")
            said = _execute([*words, "--records", folder], plan, stages, running)
        records, begun = read_records(Path(folder)), read_stages(Path(folder))[-len(stages) :]
    if not len(records.ended) and not records.failures:
        raise _failure(plan, "locust sent no request", said)
    points = []
    for stage, begin in zip(stages, begun, strict=False):
        start = begin["started"] + stage.warm_up_s
        steady = is_steady(records, start, stage.seconds, plan.stability_percent)
        found = point_of(
            records, kind="users", level=stage.users, started=start, seconds=stage.seconds, stable=steady
        )
        points.append(found)
    return LoadRun(
        name=name or plan.model,
        started=started,
        setting=Setting(
            tool="locust",
            tool_version=importlib.metadata.version("locust"),
            target=plan.target,
            url=plan.url,
            model=plan.model,
            task=served.task,
            engine=served.engine,
            engine_threads=served.engine_threads,
            items_per_request=plan.tokens if served.generates else plan.texts_per_request,
            length_mix=mix,
            corpus=plan.texts_file.name if plan.texts_file else corpus.source(),
            machine=this_machine(),
            server=f"tritonserver {served.version}" if served.version else None,
            command=command,
        ),
        points=tuple(points),
        samples=tuple(seen.samples),
    )


def arguments(plan: LocustPlan, served: Served) -> list[str]:
    """Locust's command line, without the folder of records; no secret is in it.

    Raises:
        UsageError: The target is not for such a model.
    """
    user = USERS[plan.target][served.generates]
    if user is None or (plan.target == "openai" and served.task == "classification"):
        others = [name for name, users in USERS.items() if users[served.generates] and name != "openai"]
        raise UsageError(
            f"{plan.target} is not for models of task {served.task}",
            where=f"model {plan.model}",
            mend=f"--target {' or '.join(others)}",
        )
    place = {"triton-grpc": "--grpc-url", "triton-http": "--http-url", "sse": "--http-url"}
    words = [sys.executable, "-m", "locust", "-f", str(_FILE), user, "--headless", "--only-summary"]
    words += ["--exit-code-on-error", "0", "--stop-timeout", str(_STOP_S)]
    words += [place.get(plan.target, "--gateway-url"), plan.url, "--model", plan.model, "--task", served.task]
    words += ["--text-input", served.text_input, "--texts-per-request", str(plan.texts_per_request)]
    words += ["--tokens", str(plan.tokens), "--timeout", f"{plan.timeout_s:g}", "--shape", plan.shape]
    words += ["--stage-users", ",".join(map(str, plan.users)), "--stage-seconds", f"{plan.duration_s:g}"]
    words += ["--warm-up", f"{plan.warm_up_s:g}"]
    if plan.length_mix:
        words += ["--length-mix", plan.length_mix]
    if plan.texts_file:
        words += ["--texts-file", str(plan.texts_file)]
    if plan.processes > 1:
        (port,) = map(str, free_ports(1))
        words += ["--processes", str(plan.processes), "--master-bind-port", port, "--master-port", port]
    return words


def _execute(
    command: Sequence[str], plan: LocustPlan, stages: Sequence[Stage], running: list[int]
) -> list[str]:
    """Run locust to its end, and return what it said."""
    limit = sum(stage.whole_s + 1 for stage in stages) + _STOP_S + _GRACE_S
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            running.append(process.pid)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()  # its records are written: what they hold is what it did
                status = 0
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        lines = [line.rstrip() for line in log if line.strip()]
    if status != 0:
        raise _failure(plan, f"locust ended with status {status}", lines)
    return lines


def _failure(plan: LocustPlan, what: str, lines: Sequence[str]) -> LoadTestError:
    """With the lines that say why, or the last."""
    decisive = [line for line in lines if re.search(r"Error|error:|CRITICAL", line)]
    said = "\n".join(f"  {line}" for line in (decisive or lines)[-6:])
    return LoadTestError(
        f"{what}:\n{said}", where=f"model {plan.model} on {plan.url}", mend="mend what the lines above name"
    )
