"""``tritonforge serve``: the real tritonserver on a model repository, in the foreground."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx
import typer

from tritonforge.console import console, print_json
from tritonforge.errors import ServerError
from tritonforge.server import ServerOptions, TritonServer, find_models
from tritonforge.server.checks import require
from tritonforge.server.json_logs import JsonFormatter
from tritonforge.server.levels import LevelFollower

_EXAMPLE_TEXT = "A door opens by itself."


class LogFormat(StrEnum):
    """What ``--log-format`` takes."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True)
class ServedEnsemble:
    """An ensemble and how to try it.

    Attributes:
        name: Its name.
        curl: Shell lines, one for ``/infer`` (KServe v2) and one for ``/generate`` (Triton's extension).
    """

    name: str
    curl: tuple[str, ...]


def serve(
    repository: Annotated[Path, typer.Option(help="Model repository to serve.")] = Path("model_repository"),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0: a free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0: a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics port; 0: a free one.")] = 8002,
    load: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Load only this model; may be repeated.")
    ] = None,
    engine_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of an engine instance, over its config.pbtxt.")
    ] = None,
    memory_limit_mib: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="MiB that server and models may hold; default: what models for the edge ask for; 0: all.",
        ),
    ] = None,
    cache_mib: Annotated[
        int | None, typer.Option(min=0, help="Response cache in MiB; default: 64 if a model enables it.")
    ] = None,
    cache_redis: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Response cache in Redis instead; password: TRITONCACHE_REDIS_PASSWORD.",
        ),
    ] = None,
    latency_summaries: Annotated[
        bool, typer.Option(help="Metrics: percentiles of each model's stages on this server.")
    ] = True,
    log_format: Annotated[
        LogFormat,
        typer.Option(help="json: a line an event; text: as Triton writes; auto: text on a terminal."),
    ] = LogFormat.AUTO,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send spans to this OTLP/HTTP collector: http://HOST:4318."),
    ] = None,
    trace_rate: Annotated[
        int,
        typer.Option(
            min=0, help="Trace one in so many requests that bring no trace of their own; 0: none of them."
        ),
    ] = 0,
    log_verbose: Annotated[int, typer.Option(min=0, help="Triton's verbose log level.")] = 0,
    exit_timeout: Annotated[
        int, typer.Option(min=1, help="Seconds a stop waits for requests in flight.")
    ] = 30,
    start_timeout: Annotated[int, typer.Option(min=1, help="Seconds the models may take to load.")] = 300,
    triton_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="ARG", help="Further argument for tritonserver; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON once the server is ready.")] = False,
) -> None:
    """Serve a model repository with the real tritonserver until SIGTERM or Ctrl-C.

    A stop answers the requests in flight first; a second signal stops at once. tritonserver's log goes
    to standard error.
    """
    options = ServerOptions(
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        models=tuple(load or ()),
        engine_threads=engine_threads,
        memory_limit_mib=memory_limit_mib,
        cache_size_bytes=None if cache_mib is None else cache_mib << 20,
        cache_redis=cache_redis,
        latency_summaries=latency_summaries,
        otlp_endpoint=otlp_endpoint,
        trace_rate=trace_rate,
        log_verbose=log_verbose,
        exit_timeout_s=exit_timeout,
        extra_args=tuple(triton_arg or ()),
    )
    as_lines = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    _configure_logs(as_lines)
    find_models(repository, options.models)
    require(options, repository)
    server = TritonServer(repository, options, die_with_caller=True, log_json=as_lines)
    # Both signals as KeyboardInterrupt: it reaches the start, which may take minutes, as well as the wait.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        server.start(start_timeout)
        _announce(server, as_json=as_json)
        status = _wait(server)
    except KeyboardInterrupt:
        _kill_on_the_next_signal(server)
        status = server.stop()
    finally:
        server.stop()  # a no-op but after an error
    raise typer.Exit(status)


def _wait(server: TritonServer) -> int:
    """Wait for the server's own end, which is an error; a stop comes as KeyboardInterrupt."""
    with LevelFollower(server.http_url) as follower:
        while server.returncode is None:
            follower.look()
            time.sleep(0.2)
    status = server.returncode
    tail = "\n".join(f"  {line}" for line in server.log_tail()[-5:])
    server.stop()
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    raise ServerError(f"tritonserver {how} by itself; its last lines:\n{tail}", mend="tritonforge doctor")


def _configure_logs(as_lines: bool) -> None:
    handler = logging.StreamHandler()
    form = "%(asctime)s tritonforge %(levelname)s: %(message)s"
    handler.setFormatter(JsonFormatter("serve") if as_lines else logging.Formatter(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _kill_on_the_next_signal(server: TritonServer) -> None:
    def kill(_number: int, _frame: FrameType | None) -> None:
        server.kill()

    signal.signal(signal.SIGTERM, kill)
    signal.signal(signal.SIGINT, kill)


def _announce(server: TritonServer, *, as_json: bool) -> None:
    with httpx.Client(base_url=server.http_url, timeout=30.0, trust_env=False) as client:
        triton = client.get("/v2").json()["version"]
        configs = {model: client.get(f"/v2/models/{model}/config").json() for model in server.models}
    parts = {
        step["model_name"]
        for config in configs.values()
        for step in config.get("ensemble_scheduling", {}).get("step", ())
    }
    ensembles = [
        ServedEnsemble(model, _curl_lines(server.http_url, model, config))
        for model, config in configs.items()
        if config.get("platform") == "ensemble" and model not in parts
    ]
    if as_json:
        print_json(
            {
                "triton": triton,
                "pid": server.pid,
                "http": server.http_url,
                "grpc": server.grpc_url,
                "metrics": server.metrics_url,
                "models": list(server.models),
                "memory_limit_mib": server.memory_limit_mib,
                "ensembles": [asdict(ensemble) for ensemble in ensembles],
            }
        )
        return
    lines = [
        f"tritonserver {triton} is ready, pid {server.pid}",
        f"  HTTP     {server.http_url}",
        f"  gRPC     {server.grpc_url}",
        f"  metrics  {server.metrics_url}",
        f"  models   {', '.join(server.models)}",
    ]
    if server.memory_limit_mib is not None:
        lines.append(f"  memory   {server.memory_limit_mib} MiB at most")
    for ensemble in ensembles:
        lines += ["", f"try {ensemble.name}:", *(f"  {line}" for line in ensemble.curl)]
    for line in [*lines, "", "Ctrl-C stops it."]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _curl_lines(base_url: str, model: str, config: dict[str, Any]) -> tuple[str, ...]:
    """Write a request for each way in, with the example text in every STRING input."""
    names = [each["name"] for each in config["input"] if each["data_type"] == "TYPE_STRING"]
    tensors = [
        {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [_EXAMPLE_TEXT]} for name in names
    ]
    bodies = {"infer": {"inputs": tensors}, "generate": dict.fromkeys(names, _EXAMPLE_TEXT)}
    return tuple(
        f"curl -s {base_url}/v2/models/{model}/{way} -d {shlex.quote(json.dumps(body))}"
        for way, body in bodies.items()
    )
