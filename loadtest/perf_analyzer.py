"""Measures a model on Triton with NVIDIA's perf_analyzer: a closed loop at each concurrency.

::

    python -m loadtest.perf_analyzer install
    python -m loadtest.perf_analyzer run --model minilm --concurrency 1:64:8
    python -m loadtest.perf_analyzer run --model minilm --protocol http --url localhost:8000 --json
    python -m loadtest.perf_analyzer generation --model smollm2 --streams 1,4,16

The texts come from :mod:`loadtest.corpus`, in the recipe's default mix of lengths, and perf_analyzer
sends them in turn. ``run`` and ``generation`` install the tool if need be.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from loadtest import corpus, perf_analyzer_generation
from loadtest.errors import LoadTestError
from loadtest.perf_analyzer_generation import Form
from loadtest.perf_analyzer_install import DEFAULT_CACHE, VERSION, install
from tritonforge.console import console, err_console, print_json
from tritonforge.errors import TritonForgeError, UsageError

_UNSTABLE = "Failed to obtain stable measurement"


class Protocol(StrEnum):
    """Which of Triton's endpoints to load."""

    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True)
class Measurement:
    """What perf_analyzer measured at one concurrency. Times are in microseconds.

    Attributes:
        concurrency: Requests in flight.
        texts_per_second: Throughput in texts, not requests.
        p50_us: Median latency of a request, as the client sees it.
        p90_us: 90th percentile.
        p95_us: 95th percentile.
        p99_us: 99th percentile.
        queue_us: Mean time in the server's queues.
        compute_us: Mean time in the server's models, copies included.
    """

    concurrency: int
    texts_per_second: float
    p50_us: int
    p90_us: int
    p95_us: int
    p99_us: int
    queue_us: int
    compute_us: int


@dataclass(frozen=True)
class Report:
    """One run of perf_analyzer.

    Attributes:
        version: perf_analyzer's.
        model: The model.
        protocol: ``grpc`` or ``http``.
        url: The endpoint.
        texts_per_request: Texts in each request.
        length_mix: Lengths of the texts, in tokens and weights.
        corpus: Where the texts come from.
        stable: Whether perf_analyzer found the measurements steady.
        measurements: One for each concurrency, in rising order.
    """

    version: str
    model: str
    protocol: str
    url: str
    texts_per_request: int
    length_mix: str
    corpus: str
    stable: bool
    measurements: list[Measurement]


def measure(
    tool: Path,
    *,
    model: str,
    url: str,
    protocol: str = "grpc",
    concurrency: str = "1:4",
    texts_per_request: int = 1,
    length_mix: str = corpus.DEFAULT_MIX,
    texts: int = 1000,
    window_ms: int = 2000,
    stability_percent: float = 20.0,
    extra: Sequence[str] = (),
) -> Report:
    """Run perf_analyzer on a model with the interface of an ensemble (input ``text``).

    Args:
        tool: What :func:`~loadtest.perf_analyzer_install.install` returned.
        model: Name of the model.
        url: ``host:port`` of the endpoint.
        protocol: ``grpc`` or ``http``.
        concurrency: Requests in flight, ``start:end:step``.
        texts_per_request: Texts in each request.
        length_mix: Lengths of the texts, as :meth:`loadtest.corpus.LengthMix.parse` reads them.
        texts: How many different texts to send in turn.
        window_ms: Length of a measurement window, in milliseconds.
        stability_percent: How much three windows may differ, in percent.
        extra: Further arguments for perf_analyzer.

    Raises:
        UsageError: The length mix cannot be read.
        LoadTestError: perf_analyzer failed; its own words are in the message.
    """
    try:
        mix = corpus.LengthMix.parse(length_mix)
    except ValueError as error:
        raise UsageError(str(error), where="--length-mix") from error
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as folder:
        data, table = Path(folder) / "input.json", Path(folder) / "latencies.csv"
        data.write_text(json.dumps(input_data(corpus.make_texts(texts, mix))))
        command = [str(tool), "-m", model, "-u", url, "-i", protocol, "-b", str(texts_per_request)]
        command += ["--input-data", str(data), "--concurrency-range", concurrency]
        command += ["--measurement-interval", str(window_ms)]
        command += ["--stability-percentage", str(stability_percent), "-f", str(table), *extra]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        measurements = read_measurements(table.read_text()) if table.is_file() else []
    stable = _UNSTABLE not in output
    if not measurements or (done.returncode != 0 and stable):
        raise LoadTestError(
            f"perf_analyzer failed with status {done.returncode}:\n{_last_lines(output)}",
            where=f"model {model} on {url}",
            mend="check that the server is up (tritonforge serve), and that model, protocol and port fit",
        )
    return Report(
        version=VERSION,
        model=model,
        protocol=protocol,
        url=url,
        texts_per_request=texts_per_request,
        length_mix=length_mix,
        corpus=corpus.source(),
        stable=stable,
        measurements=measurements,
    )


def input_data(texts: Sequence[str]) -> dict[str, list[dict[str, dict[str, list[str] | list[int]]]]]:
    """Return perf_analyzer's input file for ``texts``: one step for each text, which it takes in turn."""
    return {"data": [{"text": {"content": [text], "shape": [1]}} for text in texts]}


def read_measurements(table: str) -> list[Measurement]:
    """Read the CSV that perf_analyzer exports.

    Raises:
        LoadTestError: The table lacks a column, so this perf_analyzer writes another format.
    """
    measurements = []
    for row in csv.DictReader(table.splitlines()):
        try:
            compute = sum(int(row[f"Server Compute {part}"]) for part in ("Input", "Infer", "Output"))
            measurements.append(
                Measurement(
                    concurrency=int(row["Concurrency"]),
                    texts_per_second=float(row["Inferences/Second"]),
                    p50_us=int(row["p50 latency"]),
                    p90_us=int(row["p90 latency"]),
                    p95_us=int(row["p95 latency"]),
                    p99_us=int(row["p99 latency"]),
                    queue_us=int(row["Server Queue"]),
                    compute_us=compute,
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LoadTestError(
                f"cannot read perf_analyzer's table: {error!r} in {row}",
                mend=f"use perf_analyzer {VERSION}: python -m loadtest.perf_analyzer install",
            ) from error
    return sorted(measurements, key=lambda measurement: measurement.concurrency)


def _last_lines(output: str, count: int = 6) -> str:
    return "\n".join(line for line in output.strip().splitlines()[-count:])


def _show(report: Report) -> None:
    title = f"{report.model} over {report.protocol}, {report.texts_per_request} texts a request"
    table = Table(title=title, caption=f"lengths {report.length_mix}; {report.corpus}")
    for heading in ("in flight", "texts/s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "queue ms", "compute ms"):
        table.add_column(heading, justify="right")
    for m in report.measurements:
        times = (m.p50_us, m.p90_us, m.p95_us, m.p99_us, m.queue_us, m.compute_us)
        milliseconds = (f"{microseconds / 1000:.2f}" for microseconds in times)
        table.add_row(str(m.concurrency), f"{m.texts_per_second:.0f}", *milliseconds)
    console.print(table)
    if not report.stable:
        console.print("[yellow]not stable: the windows differed by more than --stability-percent[/]")


app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

CacheOption = Annotated[Path, typer.Option("--cache", help="folder that perf_analyzer is installed into")]


@app.command("install")
def install_command(cache: CacheOption = DEFAULT_CACHE) -> None:
    """Install perf_analyzer and print the path of its launcher."""
    typer.echo(str(install(cache)))


@app.command("run")
def run_command(
    model: Annotated[str, typer.Option(help="model to load")] = "minilm",
    protocol: Annotated[Protocol, typer.Option(help="endpoint to load")] = Protocol.GRPC,
    url: Annotated[str | None, typer.Option(help="host:port; default localhost:8001 or :8000")] = None,
    concurrency: Annotated[str, typer.Option(help="requests in flight, start:end:step")] = "1:4",
    texts_per_request: Annotated[int, typer.Option(min=1, help="texts in each request")] = 1,
    length_mix: Annotated[str, typer.Option(help="tokens:weight,tokens:weight,…")] = corpus.DEFAULT_MIX,
    window_ms: Annotated[int, typer.Option(min=100, help="measurement window in milliseconds")] = 2000,
    stability_percent: Annotated[float, typer.Option(help="how much three windows may differ")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure throughput and latency at each concurrency."""
    report = measure(
        install(cache),
        model=model,
        url=url or ("localhost:8001" if protocol is Protocol.GRPC else "localhost:8000"),
        protocol=protocol.value,
        concurrency=concurrency,
        texts_per_request=texts_per_request,
        length_mix=length_mix,
        window_ms=window_ms,
        stability_percent=stability_percent,
    )
    if as_json:
        print_json(asdict(report))
    else:
        _show(report)


@app.command("generation")
def generation_command(
    model: Annotated[str, typer.Option(help="generation model to load")] = "smollm2",
    url: Annotated[str, typer.Option(help="host:port of the gRPC endpoint")] = "localhost:8001",
    form: Annotated[Form, typer.Option(help="whose names the requests use")] = Form.OWN,
    streams: perf_analyzer_generation.StreamsOption = "1,4,16",
    requests: Annotated[int, typer.Option(min=1, help="to measure with each number of streams")] = 32,
    tokens: Annotated[int, typer.Option(min=1, help="of each answer")] = 64,
    length_mix: Annotated[
        str, typer.Option(help="of the prompts: tokens:weight,tokens:weight,…")
    ] = perf_analyzer_generation.DEFAULT_MIX,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure a generation model that streams over gRPC."""
    counts = perf_analyzer_generation.parse_streams(streams)
    report = perf_analyzer_generation.measure_generation(
        install(cache),
        model=model,
        url=url,
        form=form,
        streams=counts,
        requests=requests,
        tokens=tokens,
        length_mix=length_mix,
    )
    if as_json:
        print_json(asdict(report))
    else:
        perf_analyzer_generation.show(report)


def main() -> None:
    """Run the command line; a user's mistake ends with one message and no traceback."""
    try:
        app()
    except TritonForgeError as error:
        err_console.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
