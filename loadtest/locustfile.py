"""What locust runs: users of Triton and of the front door, in a shape.

``tritonforge loadtest --tool locust`` runs it and sums up. By itself, with locust's web page or headless::

    locust -f loadtest/locustfile.py GrpcUser --grpc-url localhost:8001 --model minilm
    locust -f loadtest/locustfile.py GrpcUser --headless --shape steps --stage-users 1,16,64
    locust -f loadtest/locustfile.py SseUser --task generation --model smollm2 --headless -u 4 -t 60s

Name the users to run; which there are, and for which tasks, is in :mod:`loadtest.users`. Every option is an
environment variable as well: ``LOADTEST_MODEL``, ``LOADTEST_GRPC_URL`` and so on. A gateway's token comes
from ``TRITONFORGE_TOKEN``, an API key from ``TRITONFORGE_API_KEY``.

One locust process is one Python thread; add ``--processes`` when it uses a whole core.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gevent
import grpc.experimental.gevent as grpc_gevent
from locust import LoadTestShape, events, runners
from locust.env import Environment

from loadtest.recording import Recorder
from loadtest.shapes import SHAPES, Stage, stage_after, stages_of
from loadtest.users import (
    GrpcStreamUser,
    GrpcUser,
    HttpUser,
    LoadUser,
    OpenAiUser,
    RestUser,
    SseUser,
    WebSocketUser,
)

# Workers that share their cores with the server they load may be late; locust gives them up after 3 seconds.
runners.HEARTBEAT_LIVENESS = 20

__all__ = [
    "GrpcStreamUser",
    "GrpcUser",
    "HttpUser",
    "OpenAiUser",
    "RestUser",
    "Shape",
    "SseUser",
    "WebSocketUser",
]


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # locust has no types here
def add_arguments(parser: Any) -> None:
    """Add the options to locust's own."""
    group = parser.add_argument_group("loadtest")
    for name, kind, default, text in (
        ("grpc-url", str, "localhost:8001", "host:port of the gRPC endpoint"),
        ("http-url", str, "localhost:8000", "host:port of the HTTP endpoint"),
        ("gateway-url", str, "http://localhost:8080", "base URL of the gateway"),
        ("model", str, "minilm", "model to call"),
        ("task", str, "embedding", "what the model is for: embedding, classification or generation"),
        ("text-input", str, "text", "name of an encoder's input"),
        ("length-mix", str, "", "lengths of the texts: tokens:weight,tokens:weight,…"),
        ("texts-file", str, "", "texts to send instead, one a line"),
        ("texts-per-request", int, 1, "texts in a request"),
        ("tokens", int, 64, "tokens of an answer"),
        ("timeout", float, 60.0, "seconds after which a request has failed"),
        ("shape", str, "", f"{', '.join(SHAPES)}; otherwise --users and --run-time of locust itself"),
        ("stage-users", str, "1,4,16", "users of the shape's stages"),
        ("stage-seconds", float, 30.0, "seconds measured in each stage"),
        ("warm-up", float, 1.0, "seconds of each stage before that"),
        ("records", str, "", "folder that the times of all requests are written to"),
    ):
        variable = "LOADTEST_" + name.upper().replace("-", "_")
        group.add_argument(f"--{name}", env_var=variable, type=kind, default=default, help=text)


class Shape(LoadTestShape):
    """The shape of ``--shape``, or what locust does without one."""

    use_common_options = True
    _stages: tuple[Stage, ...] = ()
    _current = -1
    _since = 0.0

    def reset_time(self) -> None:
        """Begin with the first stage: a run starts."""
        super().reset_time()  # type: ignore[no-untyped-call]  # the library is untyped
        self._current = -1

    def tick(self) -> tuple[int, float] | None:
        """How many users there should be now; None ends the run."""
        options: Any = self.runner.environment.parsed_options  # type: ignore[union-attr]  # set once it runs
        if not options.shape:
            elapsed: float = self.get_run_time()  # type: ignore[no-untyped-call]  # the library is untyped
            ended = options.run_time and elapsed >= options.run_time
            return None if ended else (options.num_users or 1, options.spawn_rate or 1)
        now = time.monotonic()
        if self._current < 0:
            users = [int(part) for part in options.stage_users.split(",")]
            self._stages = stages_of(options.shape, users, options.stage_seconds, options.warm_up)
            self._begin(0, now)
        following = stage_after(self._stages, self._current, now - self._since)
        if following is None:
            return None
        if following != self._current:
            self._begin(following, now)
        wanted = self._stages[self._current].users
        return wanted, max(wanted, 100)  # all at once: a stage has its own warm-up

    def _begin(self, stage: int, now: float) -> None:
        self._current, self._since = stage, now
        if LoadUser.recorder is not None:
            LoadUser.recorder.stage(self._stages[stage].users)


@events.init.add_listener  # type: ignore[untyped-decorator]  # locust has no types here
def prepare(environment: Environment, **_: Any) -> None:
    """Make gRPC fit for gevent, and write records where they are wanted."""
    # Locust has patched the standard library for gevent when it loads this file. gRPC's core has threads
    # of its own and would block all users during each call; this has it wait through gevent instead. It
    # is done here, in each of several processes: gRPC does not survive a fork.
    grpc_gevent.init_gevent()
    options: Any = environment.parsed_options
    if not options.records:
        return
    recorder = Recorder(Path(options.records))
    LoadUser.recorder = recorder

    def flush() -> None:
        while True:
            gevent.sleep(1.0)
            recorder.flush()

    gevent.spawn(flush)
    # Locust is untyped.
    environment.events.quitting.add_listener(lambda **_: recorder.flush())  # type: ignore[no-untyped-call]
