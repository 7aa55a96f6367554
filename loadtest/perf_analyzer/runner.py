"""Runs perf_analyzer, once for each level, while the server is watched."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest import corpus
from loadtest.errors import LoadTestError
from loadtest.perf_analyzer.export import read_encoder, read_streams
from loadtest.perf_analyzer.inputs import encoder_data, generation_data
from loadtest.perf_analyzer.install import VERSION, install
from loadtest.perf_analyzer.plan import Form, Plan
from loadtest.records import is_steady, point_of
from loadtest.results import LoadRun, Point, Setting
from loadtest.sampling import Sampler, Watch
from loadtest.served import Served, ask_triton, this_machine
from tritonforge.errors import UsageError

# perf_analyzer measures for 1.2 times the interval it is given, three times when any variation is allowed.
_INTERVALS = 3 * 1.2
_ANY = "999999"
_SPARE_S = 0.1  # its first request comes some milliseconds after its first window began
_GRACE_S = 60.0
_DELAYED = re.compile(r"([\d.]+)% of the requests were delayed")


def run(
    plan: Plan,
    *,
    name: str | None = None,
    watch: Watch | None = None,
    served: Served | None = None,
    tool: Path | None = None,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> LoadRun:
    """Load a model, level by level, and watch its server meanwhile.

    A level at which a request fails ends there, since perf_analyzer stops at the first error: its point
    has that one error and no latency, and the next level goes on.

    Args:
        plan: What to do.
        name: Of the run; the model's if None.
        watch: The server's metrics and processes; None: they are not looked at.
        served: The model, where it was asked about already.
        tool: The launcher, where it was installed already.
        command: The command that repeats the run, for the report.
        progress: Is told what goes on.

    Raises:
        UsageError: The plan cannot be carried out on this model.
        LoadTestError: perf_analyzer cannot be installed, or fails at the very first level; nobody answers;
            there is no such model.
    """
    served = served or ask_triton(plan.url, plan.protocol, plan.model)
    _check(plan, served)
    texts = _Texts(plan, served)
    if tool is None:
        progress("installing perf_analyzer, unless it is there")
        tool = install()
    points: list[Point] = []
    running: list[subprocess.Popen[str]] = []
    started = time.time()
    with Sampler(
        watch or Watch(), served.parts or (plan.model,), lambda: running[-1].pid if running else None
    ) as seen:
        for number, level in enumerate(plan.levels):
            progress(f"{plan.kind.replace('_', ' ')} {level:g}")
            try:
                points.append(_measure(tool, plan, served, level, texts.data(number), running))
            except LoadTestError as error:
                if not points:
                    raise
                points.append(_failed(plan, level, error))
    return LoadRun(
        name=name or plan.model,
        started=started,
        setting=_setting(plan, served, texts, command),
        points=tuple(points),
        samples=tuple(seen.samples),
    )


def arguments(plan: Plan, served: Served, level: float) -> list[str]:
    """perf_analyzer's arguments for one level, without its files."""
    seconds = plan.warm_up_s + plan.duration_s + (plan.warm_up_s if served.generates else _SPARE_S)
    asynchronous = plan.protocol == "grpc" or plan.kind != "concurrency"
    words = ["-m", plan.model, "-u", plan.url, "-i", plan.protocol, "--service-kind", "triton"]
    # Over HTTP its asynchronous calls are slow; with an explicit end it has a thread for each request.
    words.append("--async" if asynchronous else "--sync")
    if plan.kind == "concurrency":
        words += ["--concurrency-range", f"{level:g}:{level:g}:1"]
    else:
        distribution = "poisson" if plan.kind == "poisson" else "constant"
        words += ["--request-rate-range", f"{level:g}", "--request-distribution", distribution]
    words += ["--measurement-interval", f"{max(1, seconds * 1e3 / _INTERVALS):.0f}"]
    words += ["--max-trials", "3", "--stability-percentage", _ANY]
    if served.generates:
        words.append("--streaming")
        if plan.form is Form.TENSORRT_LLM:
            words += ["--shape", "max_tokens:1", "--shape", "text_input:1"]
    else:
        words += ["-b", str(plan.texts_per_request)]
    if plan.shared_memory != "none":
        words += [
            "--shared-memory",
            plan.shared_memory,
            "--output-shared-memory-size",
            str(plan.output_bytes),
        ]
    return words


class _Texts:
    """What is sent at each level."""

    def __init__(self, plan: Plan, served: Served) -> None:
        self._plan = plan
        self._served = served
        self.mix = plan.length_mix or (corpus.PROMPT_MIX if served.generates else corpus.DEFAULT_MIX)
        self._parsed = corpus.parse_mix(self.mix)
        self._own = corpus.read_texts(plan.texts_file) if plan.texts_file else None
        self.source = plan.texts_file.name if plan.texts_file else corpus.source()
        if plan.texts_file:
            self.mix = "as in the file"

    def data(self, number: int) -> dict[str, Any]:
        """The input file of a level; prompts are new at each, or the prefix cache would know them."""
        plan, served = self._plan, self._served
        seed = plan.seed + number if served.generates else plan.seed
        texts = self._own or corpus.make_texts(plan.texts, self._parsed, seed)
        if served.generates:
            return generation_data(plan.form, plan.model, texts, plan.tokens)
        return encoder_data(served.text_input, texts)


def _check(plan: Plan, served: Served) -> None:
    """Refuse what perf_analyzer cannot do, before it says so in words of its own."""
    if served.generates and plan.protocol == "http":
        raise UsageError(
            "perf_analyzer reads streams over gRPC only",
            where=f"model {plan.model}",
            mend="--target triton-grpc, or --tool locust --target sse",
        )
    if served.generates and plan.shared_memory != "none":
        raise UsageError(
            "perf_analyzer cannot put optional inputs into shared memory, and a generator's are",
            where=f"model {plan.model}",
            mend="leave --shared-memory out",
        )
    if any(level <= 0 or (plan.kind == "concurrency" and level % 1) for level in plan.levels):
        raise UsageError(
            f"levels must be positive, and requests in flight whole: {plan.levels}", mend="1,4,16"
        )


def _measure(
    tool: Path,
    plan: Plan,
    served: Served,
    level: float,
    data: dict[str, Any],
    running: list[subprocess.Popen[str]],
) -> Point:
    """Run one level and read what came of it."""
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as folder:
        inputs, export = Path(folder) / "inputs.json", Path(folder) / "profile_export.json"
        inputs.write_text(json.dumps(data), encoding="utf-8")
        files = ["--input-data", str(inputs), "--profile-export-file", str(export)]
        output = _execute([str(tool), *arguments(plan, served, level), *files], plan, running)
        if not export.is_file():
            raise _failure(plan, "perf_analyzer exported nothing", output)
        records = read_streams(export) if served.generates else read_encoder(export, plan.texts_per_request)
    begun = float((records.ended - records.latency / 1e3).min()) + plan.warm_up_s
    steady = is_steady(records, begun, plan.duration_s, plan.stability_percent)
    behind = _DELAYED.search(output)
    return point_of(
        records,
        kind=plan.kind,
        level=level,
        started=begun,
        seconds=plan.duration_s,
        # A rate that cannot be kept up builds a queue: no figure of it is one of a steady state.
        stable=steady and behind is None,
    )


def _execute(command: Sequence[str], plan: Plan, running: list[subprocess.Popen[str]]) -> str:
    """Run perf_analyzer and return what it says."""
    limit = 3 * (plan.duration_s + 2 * plan.warm_up_s) + _GRACE_S
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        running.append(process)
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise _failure(plan, f"perf_analyzer did not end within {limit:.0f} s", output) from None
        except BaseException:
            process.kill()
            raise
        finally:
            running.pop()
    if process.returncode != 0:
        raise _failure(plan, f"perf_analyzer ended with status {process.returncode}", output)
    return output


def _failure(plan: Plan, what: str, output: str) -> LoadTestError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if re.search(r"error|fail|exception|no valid", line, re.IGNORECASE)]
    last = "\n".join(f"  {line}" for line in (said or lines)[-4:])
    mend = "look into the server's log; a longer --duration helps where answers take seconds"
    if plan.shared_memory == "cuda":
        mend = "CUDA shared memory needs a GPU, and the server on this machine; try --shared-memory system"
    return LoadTestError(f"{what}:\n{last}", where=f"model {plan.model} on {plan.url}", mend=mend)


def _failed(plan: Plan, level: float, error: LoadTestError) -> Point:
    """A level that perf_analyzer gave up."""
    return Point(
        kind=plan.kind,
        level=level,
        started=time.time(),
        seconds=plan.duration_s,
        requests=0,
        errors=1,
        requests_per_second=0.0,
        items_per_second=0.0,
        latency=None,
        stable=False,
        error_kinds={error.what.splitlines()[-1].strip()[:200]: 1},
    )


def _setting(plan: Plan, served: Served, texts: _Texts, command: str) -> Setting:
    return Setting(
        tool="perf_analyzer",
        tool_version=VERSION,
        target=f"triton-{plan.protocol}",
        url=plan.url,
        model=plan.model,
        task=served.task,
        engine=served.engine,
        engine_threads=served.engine_threads,
        items_per_request=plan.tokens if served.generates else plan.texts_per_request,
        length_mix=texts.mix,
        corpus=texts.source,
        shared_memory=plan.shared_memory,
        machine=this_machine(),
        server=f"tritonserver {served.version}" if served.version else None,
        command=command,
    )
