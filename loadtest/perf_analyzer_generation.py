"""Measures a generation model with NVIDIA's perf_analyzer: streams over gRPC, in three forms of request.

perf_analyzer itself reports the time to the first response. Times of tokens are read from the file of all
responses that it exports, the same that genai-perf reads.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from loadtest import corpus
from loadtest.errors import LoadTestError
from loadtest.perf_analyzer_install import VERSION
from tritonforge.console import console
from tritonforge.errors import UsageError

DEFAULT_MIX = "8:0.3,24:0.3,64:0.2,192:0.1,384:0.1"


class Form(StrEnum):
    """Whose names the requests use; the last two are written as genai-perf 0.0.16 writes them."""

    OWN = "own"
    VLLM = "vllm"
    TENSORRT_LLM = "tensorrtllm"


@dataclass(frozen=True)
class StreamMeasurement:
    """What was measured with so many requests in flight. Times are in milliseconds.

    Attributes:
        streams: Requests in flight.
        requests: Answers measured.
        tokens: Tokens in them.
        tokens_per_second: Throughput of all streams together.
        first_token_p50_ms: Median time to the first token.
        first_token_p90_ms: 90th percentile.
        per_token_p50_ms: Median, over requests, of the mean time of a token after the first.
        per_token_p90_ms: 90th percentile.
    """

    streams: int
    requests: int
    tokens: int
    tokens_per_second: float
    first_token_p50_ms: float
    first_token_p90_ms: float
    per_token_p50_ms: float
    per_token_p90_ms: float


@dataclass(frozen=True)
class GenerationReport:
    """Runs of perf_analyzer on one generation model.

    Attributes:
        version: perf_analyzer's.
        model: The model.
        url: The gRPC endpoint.
        form: Whose names the requests used.
        tokens: Tokens asked for in each answer.
        length_mix: Lengths of the prompts, in tokens and weights.
        corpus: Where the prompts come from.
        measurements: One for each number of streams.
    """

    version: str
    model: str
    url: str
    form: str
    tokens: int
    length_mix: str
    corpus: str
    measurements: list[StreamMeasurement]


def measure_generation(
    tool: Path,
    *,
    model: str,
    url: str,
    form: Form = Form.OWN,
    streams: Sequence[int] = (1, 16),
    requests: int = 32,
    tokens: int = 64,
    length_mix: str = DEFAULT_MIX,
) -> GenerationReport:
    """Run perf_analyzer once for each number of streams.

    Args:
        tool: What :func:`~loadtest.perf_analyzer_install.install` returned.
        model: Name of the model.
        url: ``host:port`` of the gRPC endpoint.
        form: Whose names the requests use.
        streams: Requests in flight.
        requests: To measure, at least; two of each stream if that is more.
        tokens: Of each answer, neither more nor fewer.
        length_mix: Lengths of the prompts, as :meth:`loadtest.corpus.LengthMix.parse` reads them.

    Raises:
        UsageError: The length mix cannot be read.
        LoadTestError: perf_analyzer failed, or an answer is not whole.
    """
    try:
        mix = corpus.LengthMix.parse(length_mix)
    except ValueError as error:
        raise UsageError(str(error), where="--length-mix") from error
    measurements = []
    for number, count in enumerate(streams):
        asked = max(requests, 2 * count)
        # Those of the warm-up come first; the prefix cache knows none of the rest.
        prompts = corpus.make_texts(asked + count, mix, seed=number)
        export = _run(tool, model, url, form, count, asked, input_data(form, model, prompts, tokens))
        measurements.append(read_export(export, count))
    return GenerationReport(
        version=VERSION,
        model=model,
        url=url,
        form=form.value,
        tokens=tokens,
        length_mix=length_mix,
        corpus=corpus.source(),
        measurements=measurements,
    )


def input_data(form: Form, model: str, prompts: Sequence[str], tokens: int) -> dict[str, Any]:
    """Return perf_analyzer's input file: streamed requests for ``tokens`` tokens, in one of the forms."""
    steps: list[dict[str, Any]] = []
    for prompt in prompts:
        step: dict[str, Any]
        if form is Form.OWN:
            step = {"text_input": [prompt], "max_tokens": [tokens], "ignore_eos": [True], "stream": [True]}
        elif form is Form.VLLM:
            # genai-perf writes the numbers as strings.
            sampling = {"max_tokens": f"{tokens}", "min_tokens": f"{tokens}"}
            step = {
                "model": model,
                "text_input": [prompt],
                "exclude_input_in_output": [True],
                "stream": [True],
                "sampling_parameters": [json.dumps(sampling, separators=(",", ":"))],
            }
        else:
            step = {
                "model": model,
                "text_input": [prompt],
                "max_tokens": [tokens],
                "exclude_input_in_output": [True],
                "stream": [True],
                "min_length": [tokens],
            }
        steps.append(step)
    return {"data": steps}


def command(tool: Path, form: Form, model: str, url: str, streams: int, requests: int) -> list[str]:
    """Return perf_analyzer's command line, without its files: the one that genai-perf uses for a form."""
    shapes = ["--shape", "max_tokens:1", "--shape", "text_input:1"] if form is Form.TENSORRT_LLM else []
    return [
        *(str(tool), "-m", model, "--async", "--warmup-request-count", str(streams)),
        *("--stability-percentage", "999", "--request-count", str(requests)),
        *("-i", "grpc", "--streaming", *shapes, "-u", url),
        *("--concurrency-range", str(streams), "--service-kind", "triton"),
    ]


def _run(
    tool: Path, model: str, url: str, form: Form, streams: int, requests: int, data: dict[str, Any]
) -> dict[str, Any]:
    """Run the tool and return what it exports."""
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as folder:
        inputs, export = Path(folder) / "inputs.json", Path(folder) / "profile_export.json"
        inputs.write_text(json.dumps(data))
        files = ["--input-data", str(inputs), "--profile-export-file", str(export)]
        done = subprocess.run(
            [*command(tool, form, model, url, streams, requests), *files],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not export.is_file():
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-6:])
            raise LoadTestError(
                f"perf_analyzer failed with status {done.returncode}:\n{last}",
                where=f"model {model} on {url}",
                mend="check that the server is up (tritonforge serve), and that the model generates text",
            )
        found: dict[str, Any] = json.loads(export.read_text())
        return found


def read_export(export: dict[str, Any], streams: int) -> StreamMeasurement:
    """Read what perf_analyzer exports of one run. Its times are in nanoseconds.

    Raises:
        LoadTestError: There is no answer in it, or one was cut off.
    """
    requests = [request for each in export["experiments"] for request in each["requests"]]
    counts, first, later = [], [], []
    for request in requests:
        times = request["response_timestamps"]
        count = (request["response_outputs"] or [{}])[-1].get("completion_tokens")
        if not isinstance(count, int) or count < 1:
            raise LoadTestError(
                "an answer was cut off: its last response does not say how many tokens it has"
            )
        counts.append(count)
        first.append((times[0] - request["timestamp"]) / 1e6)
        if count > 1:
            later.append((times[-1] - times[0]) / 1e6 / (count - 1))
    if not requests:
        raise LoadTestError("perf_analyzer exported no request")
    started = min(request["timestamp"] for request in requests)
    ended = max(request["response_timestamps"][-1] for request in requests)
    first_p50, first_p90 = np.percentile(first, (50, 90)).tolist()
    later_p50, later_p90 = np.percentile(later or [0.0], (50, 90)).tolist()
    return StreamMeasurement(
        streams=streams,
        requests=len(requests),
        tokens=sum(counts),
        tokens_per_second=sum(counts) / ((ended - started) / 1e9),
        first_token_p50_ms=first_p50,
        first_token_p90_ms=first_p90,
        per_token_p50_ms=later_p50,
        per_token_p90_ms=later_p90,
    )


def show(report: GenerationReport) -> None:
    """Print a report as a table."""
    title = f"{report.model} over grpc, requests of {report.form}, {report.tokens} tokens an answer"
    table = Table(title=title, caption=f"prompts {report.length_mix}; {report.corpus}")
    headings = ("streams", "requests", "tokens/s", "first token ms", "p90", "per token ms", "p90")
    for heading in headings:
        table.add_column(heading, justify="right")
    for m in report.measurements:
        table.add_row(
            str(m.streams),
            str(m.requests),
            f"{m.tokens_per_second:.0f}",
            f"{m.first_token_p50_ms:.0f}",
            f"{m.first_token_p90_ms:.0f}",
            f"{m.per_token_p50_ms:.1f}",
            f"{m.per_token_p90_ms:.1f}",
        )
    console.print(table)


StreamsOption = Annotated[str, typer.Option("--streams", help="requests in flight: N,N,…")]


def parse_streams(text: str) -> list[int]:
    """Read ``N,N,…``.

    Raises:
        UsageError: It has another form, or a number is not positive.
    """
    try:
        streams = [int(part) for part in text.split(",")]
    except ValueError:
        streams = []
    if not streams or min(streams) < 1:
        raise UsageError(f"not a list of numbers of streams: {text!r}", where="--streams", mend="1,4,16")
    return streams
