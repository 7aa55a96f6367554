"""``tritonforge trace``: one request as a waterfall, and where its time went."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from tritonforge.cli.extras import require
from tritonforge.cli.generation import MaxTokens, reported
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import ServerError, UsageError

if TYPE_CHECKING:
    from observability.asking import Question, Way
    from observability.otlp import Receiver, Span
    from observability.tree import Node

_WARM_UP = 3
_ATTEMPTS = 4
_DELAY_MS = 100
_QUIET_S = 0.6
_ATTACHED_QUIET_S = 6.0  # processes that were started otherwise send what they have every 5 s
_LONGEST_WAIT_S = 20.0
_MS = 1e6


def trace(
    model: Annotated[str, typer.Argument(help="Name of the model, for example minilm or smollm2.")],
    text: Annotated[str, typer.Argument(help="A text, or a prompt.")],
    repository: Annotated[
        Path, typer.Option(help="Model repository; a server of its own is started on it.")
    ] = Path("model_repository"),
    engine_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of an engine instance, over its config.pbtxt.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="gRPC of a running server instead, which was started with --otlp-endpoint http://LISTEN.",
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where spans are received; port 0: a free one.")
    ] = "127.0.0.1:0",
    through: Annotated[
        Literal["triton", "gateway"], typer.Option(help="Ask Triton itself, or by way of a gateway.")
    ] = "triton",
    repeat: Annotated[int, typer.Option(min=1, help="Requests to trace, one after the other.")] = 1,
    pick: Annotated[
        Literal["median", "slowest"] | None,
        typer.Option(help="Which of them to show; default: the median, with a threshold the slowest."),
    ] = None,
    threshold_ms: Annotated[
        float | None, typer.Option(min=0.0, help="A request that takes longer is marked; status 1.")
    ] = None,
    load: Annotated[int, typer.Option(min=0, help="Keep so many other requests in flight meanwhile.")] = 0,
    max_tokens: MaxTokens = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the spans and stages as JSON.")] = False,
) -> None:
    """Trace a request to MODEL on its whole way, and say where its time goes.

    Each span has a bar, its start, its duration, and what it spent by itself; batch sizes and tokens beside.
    """
    require("trace", "trace", "opentelemetry.proto", "opentelemetry.sdk")
    require("trace", "client", "tritonclient", "grpc")
    if through == "gateway":
        require("a trace through the gateway", "gateway", "envoy", "fastapi", "uvicorn")
    from observability.asking import ask_traced, others
    from observability.otlp import Receiver

    host, port = _address(listen)
    if url is not None and port == 0:
        raise UsageError(
            "a running server sends its spans to a port that it knows",
            where="--listen",
            mend="give that of its --otlp-endpoint, for example --listen 127.0.0.1:4318",
        )
    with ExitStack() as stack:
        status = stack.enter_context(err_console.status("starting"))
        receiver = stack.enter_context(Receiver(host, port))
        grpc_address = (
            url or stack.enter_context(_server(repository, model, engine_threads, receiver)).grpc_url
        )
        question = _question(grpc_address, model, text, max_tokens, repository)
        target = grpc_address
        if through == "gateway":
            from observability.opening import open_gateway

            target = stack.enter_context(open_gateway(grpc_address, receiver.url, delay_ms=_DELAY_MS)).url
        way = _way(through, target, question, timeout)
        stack.callback(way.close)
        status.update("asking")
        for _ in range(_WARM_UP):
            way.ask(None)
        wanted = {"triton", *(("door", "facade") if through == "gateway" else ())}
        asked: list[Span] = []
        whole: list[Span] = []
        with others(partial(_way, through, target, question, timeout), load) as answered:
            # Triton 2.51 overlooks the trace of a gRPC call now and then.
            for _ in range(_ATTEMPTS):
                asked += [ask_traced(way) for _ in range(repeat)]
                beside = answered()
                status.update("waiting for spans")
                _wait(receiver, wanted, attached=url is not None)
                whole = [span for span in asked if wanted <= _parts(receiver, span)]
                if whole or not receiver.spans:
                    break
        if not whole:
            missing = ", ".join(sorted(wanted - set().union(*(_parts(receiver, span) for span in asked))))
            raise ServerError(
                f"no spans came from {missing}",
                where=receiver.url,
                mend=f"start the server with: tritonforge serve --otlp-endpoint {receiver.url}",
            )
        chosen = _choose(asked, whole, pick or ("median" if threshold_ms is None else "slowest"))
        spans = receiver.of(chosen.trace_id)
    over = [span for span in asked if threshold_ms is not None and _nanoseconds(span) > threshold_ms * _MS]
    facts = {
        "model": model,
        "through": through,
        "in_flight_beside": load,
        "answered_beside": beside,
        "latencies_ms": [round(_nanoseconds(span) / _MS, 3) for span in asked],
        "threshold_ms": threshold_ms,
        "over_threshold": len(over),
        "trace_id": chosen.trace_id,
    }
    _show([chosen, *spans], facts, as_json=as_json)
    raise typer.Exit(1 if over else 0)


def _nanoseconds(span: Span) -> int:
    return span.end - span.start


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{listen!r} is not HOST:PORT", where="--listen", mend="for example 127.0.0.1:4318")
    return host, int(port)


@contextmanager
def _server(repository: Path, model: str, threads: int | None, receiver: Receiver) -> Iterator[Any]:
    """A server with this model that sends its spans here at once; its log is shown if it does not start."""
    from tritonforge.server import ServerOptions, TritonServer
    from tritonforge.server.tracing import SCHEDULE_DELAY

    options = ServerOptions(
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        models=(model,),
        engine_threads=threads,
        otlp_endpoint=receiver.url,
    )
    environment = {SCHEDULE_DELAY: str(_DELAY_MS)}
    with (
        Path(os.devnull).open("wb") as nowhere,
        TritonServer(
            repository, options, log_sink=nowhere, environment=environment, die_with_caller=True
        ) as server,
    ):
        yield server


def _question(address: str, model: str, text: str, max_tokens: int | None, repository: Path) -> Question:
    from clients import Client
    from observability.asking import Question

    with reported(model, address, repository), Client(address, model, protocol="grpc") as client:
        outputs = {output.name for output in client.metadata().outputs}
        inputs = {each.name for each in client.metadata().inputs}
    if "text_output" in outputs:
        return Question(model, "generation", text, max_tokens)
    if "text" not in inputs:
        raise UsageError("it takes no texts", where=model, mend="name an ensemble or a generation model")
    if max_tokens is not None:
        raise UsageError("it does not generate text, so it has no use for --max-tokens", where=model)
    return Question(model, "embedding" if "embedding" in outputs else "classification", text)


def _way(through: str, target: str, question: Question, timeout: float) -> Way:
    from observability.asking import ToGateway, ToTriton

    return (ToGateway if through == "gateway" else ToTriton)(target, question, timeout)


def _parts(receiver: Receiver, root: Span) -> set[str]:
    """Which kinds of processes sent spans of a trace."""
    return {span.service.rpartition("-")[2] for span in receiver.of(root.trace_id)}


def _wait(receiver: Receiver, wanted: set[str], *, attached: bool) -> None:
    """Wait until all processes have sent what they had: nothing more comes, and each kind sent something."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    quiet = _ATTACHED_QUIET_S if attached else _QUIET_S
    count, since = 0, time.monotonic()
    while time.monotonic() < deadline:
        spans = receiver.spans
        if len(spans) != count:
            count, since = len(spans), time.monotonic()
        if time.monotonic() - since > quiet and wanted <= {span.service.rpartition("-")[2] for span in spans}:
            return
        time.sleep(0.05)


def _choose(asked: Sequence[Span], whole: Sequence[Span], which: str) -> Span:
    """Of the requests whose spans are all there, the slowest, or the one nearest to the median of all."""
    if which == "slowest":
        return max(whole, key=_nanoseconds)
    ranked = sorted(asked, key=_nanoseconds)
    median = _nanoseconds(ranked[(len(ranked) - 1) // 2])
    return min(whole, key=lambda span: abs(_nanoseconds(span) - median))


def _show(spans: Sequence[Span], facts: dict[str, Any], *, as_json: bool) -> None:
    from observability.stages import stages
    from observability.tree import trees
    from observability.waterfall import stage_table, waterfall

    roots = trees(spans)
    where = stages(roots)
    if as_json:
        print_json(
            {
                **facts,
                "spans": [_row(depth, node, roots[0]) for root in roots for depth, node in root.walk()],
                "stages": [
                    {"stage": stage.name, "ms": stage.nanoseconds / _MS, "hint": stage.hint}
                    for stage in where
                ],
            }
        )
        return
    console.print(waterfall(roots, title=_title(facts), width=console.width), markup=False)
    console.print()
    console.print(stage_table(where), markup=False)
    threshold = facts["threshold_ms"]
    if threshold is not None:
        over, count = facts["over_threshold"], len(facts["latencies_ms"])
        words = f"{over} of {count} took longer than {threshold:g} ms"
        if over:
            words += f"; most of the one above went to {where[0].name} ({where[0].hint})"
        console.print()
        console.print(Text(words, "bold red" if over else "green"), soft_wrap=True)


def _title(facts: dict[str, Any]) -> str:
    latencies = sorted(facts["latencies_ms"])
    parts = [f"{facts['model']} through {facts['through']}, trace {facts['trace_id']}"]
    if len(latencies) > 1:
        median = latencies[(len(latencies) - 1) // 2]
        parts.append(f"{len(latencies)} requests: median {median:.2f} ms, slowest {latencies[-1]:.2f} ms")
    if facts["in_flight_beside"]:
        parts.append(f"{facts['in_flight_beside']} others in flight, {facts['answered_beside']} answered")
    return "; ".join(parts)


def _row(depth: int, node: Node, first: Node) -> dict[str, Any]:
    span = node.span
    return {
        "depth": depth,
        "service": span.service,
        "name": span.name,
        "at_ms": (span.start - first.span.start) / _MS,
        "ms": node.duration / _MS,
        "self_ms": node.own / _MS,
        "derived": node.derived,
        "failed": span.failed,
        "attributes": span.attributes,
        "events": [{"name": name, "at_ms": (at - first.span.start) / _MS} for name, at in span.events],
        "links": [{"trace_id": trace_id, "span_id": span_id} for trace_id, span_id in span.links],
    }
