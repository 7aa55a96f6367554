"""What traces cost: the same requests, one at a time, with tracing off, on, and on for every request.

``python -m observability.bench_tracing MODEL --repository DIR``. The variants take turns in short blocks, so
that a busy machine is busy for all of them. CPU is that of all processes that serve: tritonserver, its stubs,
Envoy, the facade.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.table import Table

from observability.asking import Question, ToGateway, ToTriton, Way
from observability.opening import open_gateway
from observability.otlp import Receiver
from tritonforge.console import console, print_json
from tritonforge.server import ServerOptions, TritonServer

_TEXT = "Traces show where the time of a request goes, and cost a little of it themselves."
_WARM_UP = 50
_DELAY_MS = 5000  # the SDK's own default


@dataclass
class Variant:
    """One way to ask, and what it took.

    Attributes:
        name: Of it.
        way: How to ask.
        flag: Of the ``traceparent`` that is sent; None: none is.
        processes: That serve.
        seconds: Of each request.
        cpu: Seconds of CPU in all.
    """

    name: str
    way: Way
    flag: str | None
    processes: list[psutil.Process]
    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def block(self, count: int) -> None:
        """Ask some times, one after the other."""
        before = self._cpu()
        for _ in range(count):
            context = None
            if self.flag is not None:
                context = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{self.flag}"
            start = time.perf_counter()
            self.way.ask(context)
            self.seconds.append(time.perf_counter() - start)
        self.cpu += self._cpu() - before

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return sum(each.user + each.system for each in times)


def main(
    model: str,
    repository: Annotated[Path, typer.Option()] = Path("model_repository"),
    rounds: Annotated[int, typer.Option(min=2)] = 20,
    count: Annotated[int, typer.Option(min=1, help="Requests of a variant in a round.")] = 50,
    engine_threads: Annotated[int, typer.Option(min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure, and print a table."""
    question = Question(model, "embedding", _TEXT)
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        sink = stack.enter_context(Path("/dev/null").open("wb"))
        variants: list[Variant] = []
        for endpoint in (None, receiver.url):
            options = ServerOptions(
                http_port=0,
                grpc_port=0,
                metrics_port=0,
                models=(model,),
                engine_threads=engine_threads,
                otlp_endpoint=endpoint,
            )
            server = stack.enter_context(TritonServer(repository, options, log_sink=sink))
            gateway = stack.enter_context(open_gateway(server.grpc_url, endpoint, delay_ms=_DELAY_MS))
            triton = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            door = [
                each
                for each in psutil.Process().children()
                if str(gateway.paths.folder) in str(each.cmdline())
            ]
            for where, processes, way in (
                ("triton", triton, lambda address=server.grpc_url: ToTriton(address, question, 30)),
                ("gateway", triton + door, lambda url=gateway.url: ToGateway(url, question, 30)),
            ):
                make: Callable[[], Way] = way
                cases = {"off": None} if endpoint is None else {"on, not sampled": None, "on, sampled": "01"}
                variants += [
                    Variant(f"{where}, {case}", make(), flag, processes) for case, flag in cases.items()
                ]
        for variant in variants:
            variant.block(_WARM_UP)
            variant.seconds, variant.cpu = [], 0.0
        for number in range(rounds):
            for variant in variants if number % 2 else reversed(variants):
                variant.block(count)
        for variant in variants:
            variant.way.close()
    rows = [
        {
            "variant": variant.name,
            "p50_ms": statistics.median(variant.seconds) * 1e3,
            "cpu_ms": variant.cpu / len(variant.seconds) * 1e3,
            "requests": len(variant.seconds),
        }
        for variant in variants
    ]
    if as_json:
        print_json({"model": model, "rows": rows})
        return
    table = Table(title=f"{model}, one request in flight, {rounds} rounds of {count} in turns")
    for name in ("variant", "p50 ms", "CPU ms a request"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for row in sorted(rows, key=lambda row: str(row["variant"]).startswith("gateway")):
        table.add_row(str(row["variant"]), f"{row['p50_ms']:.3f}", f"{row['cpu_ms']:.3f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
    sys.exit(0)
