"""``tritonforge loadtest``: make load with perf_analyzer or locust, measure, and write a report."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonforge.cli.extras import require
from tritonforge.cli.loadtest_report import diff, report
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import UsageError

if TYPE_CHECKING:
    from loadtest.own_server import Place
    from loadtest.results import LoadRun


class Tool(StrEnum):
    """Who makes the load."""

    PERF_ANALYZER = "perf_analyzer"
    LOCUST = "locust"


class Target(StrEnum):
    """Who is asked, and how."""

    TRITON_GRPC = "triton-grpc"
    TRITON_HTTP = "triton-http"
    REST = "rest"
    OPENAI = "openai"
    WEBSOCKET = "websocket"
    SSE = "sse"


class Arrivals(StrEnum):
    """When the requests of a rate come."""

    POISSON = "poisson"
    CONSTANT = "constant"


class ShapeOption(StrEnum):
    """How locust's users come and go."""

    STEPS = "steps"
    SPIKE = "spike"
    SOAK = "soak"


class SharedMemory(StrEnum):
    """Where tensors lie."""

    NONE = "none"
    SYSTEM = "system"
    CUDA = "cuda"


class Form(StrEnum):
    """Whose names requests to a generator use."""

    OWN = "own"
    VLLM = "vllm"
    TENSORRT_LLM = "tensorrtllm"


app = typer.Typer(
    help="Load tests with perf_analyzer or locust, their reports, and comparisons of two.",
    no_args_is_help=False,
)
app.command()(report)
app.command()(diff)

_LEVELS = "A,B,C or START:END:STEP"


@app.callback(invoke_without_command=True)
def loadtest(
    context: typer.Context,
    tool: Annotated[Tool, typer.Option(help="Who makes the load.")] = Tool.PERF_ANALYZER,
    model: Annotated[str, typer.Option(help="Model to load.")] = "minilm",
    target: Annotated[Target, typer.Option(help="Who is asked, and how.")] = Target.TRITON_GRPC,
    url: Annotated[
        str | None, typer.Option(help="HOST:PORT or URL of the target; default: a server is started.")
    ] = None,
    repository: Annotated[
        Path, typer.Option(help="Model repository, for the server that is started.")
    ] = Path("model_repository"),
    engine_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of an engine of the server that is started.")
    ] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help="Triton's metrics, where they are not found by themselves.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option("--concurrency", "--users", metavar=_LEVELS, help="Requests in flight; locust: users."),
    ] = None,
    request_rate: Annotated[
        str | None, typer.Option(metavar=_LEVELS, help="Requests a second instead; perf_analyzer only.")
    ] = None,
    arrivals: Annotated[Arrivals, typer.Option(help="Of the requests of a rate.")] = Arrivals.POISSON,
    shape: Annotated[ShapeOption, typer.Option(help="Of locust's users.")] = ShapeOption.STEPS,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds measured at each level.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds of load before that.")] = 1.0,
    length_mix: Annotated[
        str | None, typer.Option(metavar="TOKENS:WEIGHT,…", help="Lengths of the texts.")
    ] = None,
    texts_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Texts to send instead, one a line.")
    ] = None,
    texts_per_request: Annotated[int, typer.Option(min=1, help="Of encoders.")] = 1,
    tokens: Annotated[int, typer.Option(min=1, help="Of each answer of a generator.")] = 64,
    form: Annotated[Form, typer.Option(help="Of perf_analyzer's requests to a generator.")] = Form.OWN,
    shared_memory: Annotated[
        SharedMemory, typer.Option(help="For perf_analyzer's tensors; the server on this machine.")
    ] = SharedMemory.NONE,
    stability_percent: Annotated[
        float, typer.Option(min=0.0, help="How much a level's thirds may differ to be called steady.")
    ] = 20.0,
    processes: Annotated[int, typer.Option(min=1, help="Of locust.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds of a request of locust.")] = 60.0,
    token_file: Annotated[
        Path | None, typer.Option(help="Token for a gateway; or set TRITONFORGE_TOKEN.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="API key for a gateway; or set TRITONFORGE_API_KEY.")
    ] = None,
    slo_p99_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Tell the capacity at this p99 of the latency.")
    ] = None,
    slo_ttft_p99_ms: Annotated[
        float | None, typer.Option(min=0.0, help="And at this p99 of the time to the first token.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; default: model, tool and target.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: build/loadtest/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Load a model and write DIR/run.json and DIR/report.html.

    Without --url one server is started for the test, on free ports, and stopped at its end.
    """
    if context.invoked_subcommand is not None:
        return
    require("a load test", "loadtest", "locust", "tritonclient", "matplotlib", "jinja2", "scipy")
    run_name = name or f"{model}-{tool.value}-{target.value}"
    if not re.fullmatch(r"[\w.-]+", run_name):
        raise UsageError(
            f"{run_name!r} is no name of a folder", where="--name", mend="letters, digits, . _ -"
        )
    folder = output or Path("build/loadtest") / run_name
    _take_credentials(token_file, api_key_file)
    texts: dict[str, Any] = {
        "length_mix": length_mix,
        "texts_file": texts_file,
        "texts_per_request": texts_per_request,
        "tokens": tokens,
        "duration_s": duration,
        "warm_up_s": warm_up,
        "stability_percent": stability_percent,
    }
    command = _command(context)
    load: Callable[[Place, Callable[[str], None]], LoadRun]
    if tool is Tool.LOCUST:
        _refuse(context, tool, "request_rate", "arrivals", "form", "shared_memory")
        load = _locust(
            run_name,
            command,
            {"model": model, "target": target.value, "shape": shape.value, **texts}
            | {"processes": processes, "timeout_s": timeout},
            concurrency,
        )
    else:
        _refuse(context, tool, "shape", "processes", "timeout")
        if target not in (Target.TRITON_GRPC, Target.TRITON_HTTP):
            raise UsageError(
                f"perf_analyzer speaks to Triton only, not {target.value}",
                where="--target",
                mend="--tool locust, or --target triton-grpc",
            )
        load = _perf_analyzer(
            run_name,
            command,
            {"model": model, "protocol": target.value.removeprefix("triton-"), **texts}
            | {"form": form.value, "shared_memory": shared_memory.value},
            concurrency,
            (request_rate, arrivals),
        )
    with (
        _place(url, metrics_url, target, repository, model, folder, engine_threads) as place,
        err_console.status("load test") as status,
    ):
        done = load(place, status.update)
    if engine_threads is not None:  # over what the model's configuration says, which the tools read
        setting = done.setting.model_copy(update={"engine_threads": engine_threads})
        done = done.model_copy(update={"setting": setting})
    _tell(done, folder, slo_p99_ms, slo_ttft_p99_ms, as_json=as_json)


def _locust(
    name: str, command: str, keys: dict[str, Any], users: str | None
) -> Callable[[Place, Callable[[str], None]], LoadRun]:
    """What runs locust; what can be refused is refused now, before a server starts."""
    from loadtest.levels import parse_levels, whole
    from loadtest.locust_run import LocustPlan, run

    default = {"spike": "4,64", "soak": "16"}.get(keys["shape"], "1,4,16,64")
    keys |= {"users": whole(parse_levels(users or default, "--users"), "--users")}
    _ = LocustPlan(url="later", **keys).stages

    def load(place: Place, progress: Callable[[str], None]) -> LoadRun:
        plan = LocustPlan(url=place.url, **keys)
        return run(plan, name=name, watch=place.watch, command=command, progress=progress)

    return load


def _perf_analyzer(
    name: str,
    command: str,
    keys: dict[str, Any],
    concurrency: str | None,
    rates: tuple[str | None, Arrivals],
) -> Callable[[Place, Callable[[str], None]], LoadRun]:
    """What runs perf_analyzer."""
    from loadtest.levels import parse_levels, whole
    from loadtest.perf_analyzer import Plan, run

    rate, arrivals = rates
    if rate is not None and concurrency is not None:
        raise UsageError(
            "a load is either a concurrency or a rate", mend="leave --concurrency or --request-rate out"
        )
    if rate is not None:
        kind = "poisson" if arrivals is Arrivals.POISSON else "request_rate"
        keys |= {"kind": kind, "levels": parse_levels(rate, "--request-rate")}
    else:
        levels = parse_levels(concurrency or "1,4,16,64", "--concurrency")
        keys |= {"levels": whole(levels, "--concurrency")}

    def load(place: Place, progress: Callable[[str], None]) -> LoadRun:
        plan = Plan(url=place.url, **keys)
        return run(plan, name=name, watch=place.watch, command=command, progress=progress)

    return load


@contextlib.contextmanager
def _place(
    url: str | None,
    metrics_url: str | None,
    target: Target,
    repository: Path,
    model: str,
    folder: Path,
    engine_threads: int | None,
) -> Iterator[Place]:
    """The server that runs, or one that is started."""
    from loadtest.find_server import find_watch
    from loadtest.own_server import GATEWAY_TARGETS, Place, own_server

    if url is not None:
        if engine_threads is not None:
            raise UsageError(
                "the server runs already, with threads of its own",
                where="--engine-threads",
                mend="leave it out",
            )
        # perf_analyzer, tritonclient and tritonserver's own way to say it: without a scheme.
        bare = url.removeprefix("http://").rstrip("/") if target.value not in GATEWAY_TARGETS else url
        yield Place(bare, find_watch(url, metrics_url))
        return
    if target.value in GATEWAY_TARGETS:
        require("a gateway", "gateway", "fastapi", "uvicorn", "grpc", "re2", "limits", "joserfc", "orjson")
    err_console.print(f"starting a server for {model}", markup=False, highlight=False)
    with own_server(target.value, repository, model, folder / "server.log", engine_threads) as place:
        yield place


def _tell(
    done: LoadRun, folder: Path, p99: float | None, first_token: float | None, *, as_json: bool
) -> None:
    """Write the run and its report; print what came of it."""
    from loadtest.report import write_report
    from loadtest.report.checks import warnings
    from loadtest.report.page import read_sweeps
    from loadtest.report.words import capacity_sentence
    from loadtest.results import write_run
    from tritonforge.cli.loadtest_report import make_slo

    file = write_run(done, folder)
    if as_json:
        slo = make_slo(None, None, p99, first_token, None, 1.0)
        page = write_report([done], folder, slo)
        print_json(
            {
                "run": str(file),
                "page": str(page),
                "results": [capacity_sentence(read) for read in read_sweeps([done], slo)],
                "warnings": list(warnings(done)),
                "points": [point.model_dump(exclude={"windows"}) for point in done.points],
            }
        )
    else:
        report([folder], slo_p99_ms=p99, slo_ttft_p99_ms=first_token)
        console.print(f"run:  {file}", markup=False, highlight=False, soft_wrap=True)
    if not any(point.requests for point in done.points):
        raise typer.Exit(1)


def _refuse(context: typer.Context, tool: Tool, *names: str) -> None:
    """Refuse options that a tool has no use for, rather than leave them out in silence."""
    for parameter in context.command.params:
        if parameter.name in names and _given(context, parameter.name):
            raise UsageError(
                f"{tool.value} has no use for it",
                where=parameter.opts[0],
                mend=f"leave it out, or take --tool {next(each for each in Tool if each is not tool).value}",
            )


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _command(context: typer.Context) -> str:
    """The command that repeats this run."""
    words = ["tritonforge", "loadtest"]
    for parameter in context.command.params:
        if parameter.name and parameter.name != "as_json" and _given(context, parameter.name):
            words += [parameter.opts[0], str(context.params[parameter.name])]
    return shlex.join(words)


def _take_credentials(token_file: Path | None, api_key_file: Path | None) -> None:
    """Put secrets from files into the environment, where the tools' processes look."""
    from loadtest.credentials import API_KEY_VARIABLE, TOKEN_VARIABLE, read_secret

    for file, variable in ((token_file, TOKEN_VARIABLE), (api_key_file, API_KEY_VARIABLE)):
        if file is not None:
            os.environ[variable] = read_secret(file)
