"""Measures one server: closed loops on the real tritonserver, and what it says of its batches meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtest.corpus import DEFAULT_MIX, make_texts, parse_mix
from loadtest.cpu_time import cpu_seconds
from loadtest.errors import LoadTestError
from loadtest.own_server import own_server
from loadtest.perf_analyzer.install import install
from loadtest.perf_analyzer.plan import Plan
from loadtest.perf_analyzer.runner import run
from loadtest.results import LoadRun, Point
from loadtest.sampling import Watch
from loadtest.scaling.others import Others
from loadtest.scaling.profile import BatchTime, LengthTime, Level, Profile, Stage, batch_times
from loadtest.served import Served, ask_triton

IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64, 128)
_P99_OF_NORMAL = 2.326
_GATEWAY_REQUESTS = 400

Batches = dict[int, tuple[int, int]]


def measure(
    url: str,
    watch: Watch,
    model: str,
    *,
    mix: str = DEFAULT_MIX,
    in_flight: Sequence[int] = IN_FLIGHT,
    seconds: float = 3.0,
    start_s: float = 0.0,
    repository_bytes: int = 0,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure a server that runs.

    Args:
        url: Its gRPC address.
        watch: Its metrics and processes.
        model: An encoder.
        mix: Lengths of the texts.
        in_flight: Closed loops, rising, the first of 1.
        seconds: Of each.
        start_s: What its start took.
        repository_bytes: Of its files.
        command: That measures again.
        progress: Is told what goes on.

    Raises:
        LoadTestError: perf_analyzer cannot be had, or requests fail.
    """
    served = ask_triton(url, "grpc", model)
    if served.generates:
        raise LoadTestError(
            "a generator's requests last as long as their answers, and share the engine token by token",
            where=f"model {model}",
            mend="this simulates models that answer at once; for generators: tritonforge loadtest",
        )
    parts = _parts(served)
    tool = install()

    def load(lengths: str, levels: Sequence[int], length_s: float) -> LoadRun:
        plan = Plan(
            model=model,
            url=url,
            levels=tuple(float(level) for level in levels),
            duration_s=length_s,
            warm_up_s=min(1.0, length_s / 3),
            length_mix=lengths,
        )
        try:
            return run(plan, watch=watch, served=served, tool=tool, command=command)
        except LoadTestError:
            # perf_analyzer gives up when a stretch of its time sees no answer, as where others work too.
            longer = plan.model_copy(update={"duration_s": 3 * plan.duration_s})
            return run(longer, watch=watch, served=served, tool=tool, command=command)

    progress("warming up")
    load(mix, [max(in_flight)], seconds)
    lengths, jitter = _lengths(
        url, parts[-1], mix, lambda each: load(each, [1], max(1.0, seconds / 2)), progress
    )
    alone = _statistics(url, parts)
    runs, levels = [], []
    lone: dict[str, list[BatchTime]] = {}
    for level in in_flight:
        progress(f"{level} in flight")
        others = Others()
        runs.append(load(mix, [level], seconds))
        levels.append(_level(runs[-1].points[0], runs[-1], others.cpus(runs[-1])))
        if level == in_flight[0]:
            lone = _between(alone, _statistics(url, parts))
    times = _between(alone, _statistics(url, parts))
    inside = sum(lone[part][0].seconds for part in parts)
    memory = [sample.memory_bytes for each in runs for sample in each.samples if sample.memory_bytes]
    return Profile(
        setting=runs[0].setting,
        stages=tuple(_stage(url, part, times[part]) for part in parts),
        lengths=lengths,
        overhead_s=max(0.0, levels[0].mean_ms / 1e3 - inside),
        jitter=jitter,
        levels=tuple(levels),
        start_s=start_s,
        repository_bytes=repository_bytes,
        memory_bytes=max(memory, default=0),
    )


def measure_own(
    repository: Path,
    model: str,
    *,
    log: Path,
    engine_threads: int | None = None,
    gateway: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    then: Callable[[Profile, str, Watch], None] | None = None,
    **how: Any,
) -> Profile:
    """Serve a model, measure it, and stop.

    Args:
        repository: Where it is.
        model: An encoder.
        log: What the servers write.
        engine_threads: Over what its configuration says.
        gateway: Measure also what the gateway takes for a request.
        progress: Is told what goes on.
        then: Is given the profile, the server's address and what to watch, while it still runs.
        how: As for :func:`measure`.

    Raises:
        LoadTestError: As for :func:`measure`.
        ServerError: The server did not start.
    """
    progress("starting the server")
    begin = time.monotonic()
    with own_server("triton-grpc", repository, model, log, engine_threads) as place:
        start_s = time.monotonic() - begin
        parts = ask_triton(place.url, "grpc", model).parts or (model,)
        size = sum(_folder_bytes(repository / part) for part in {model, *parts})
        profile = measure(
            place.url,
            place.watch,
            model,
            start_s=start_s,
            repository_bytes=size,
            progress=progress,
            **how,
        )
        if then is not None:
            then(profile, place.url, place.watch)
    if gateway:
        progress("the gateway's share")
        cpu = gateway_cpu_s(repository, model, log, str(how.get("mix", DEFAULT_MIX)), engine_threads)
        profile = profile.model_copy(update={"gateway_cpu_s": cpu})
    return profile


def gateway_cpu_s(repository: Path, model: str, log: Path, mix: str, engine_threads: int | None) -> float:
    """CPU of Envoy and facade for one request over REST, without tokens and limits.

    Raises:
        LoadTestError: A request failed.
    """
    texts = make_texts(_GATEWAY_REQUESTS, parse_mix(mix), seed=7)
    with own_server("rest", repository, model, log, engine_threads) as place:
        # The server is named first; what the gateway started comes after it.
        processes = place.watch.pids[1:]
        with httpx.Client(base_url=place.url, timeout=30, trust_env=False) as client:

            def ask(text: str) -> None:
                client.post("/embed", json={"text": text, "model": model}).raise_for_status()

            try:
                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(ask, texts[:64]))
                    before = cpu_seconds(*processes)
                    list(pool.map(ask, texts))
            except httpx.HTTPError as error:
                raise LoadTestError(
                    f"a request failed: {error}", where=place.url, mend=f"see {log}"
                ) from error
        return (cpu_seconds(*processes) - before) / len(texts)


def _lengths(
    url: str,
    engine: str,
    mix: str,
    load: Callable[[str], LoadRun],
    progress: Callable[[str], None],
) -> tuple[tuple[LengthTime, ...], float]:
    """The engine's time of each length of the mix, and how constant what should be constant is."""
    parsed = parse_mix(mix)
    found, spreads = [], []
    for tokens, weight in zip(parsed.tokens, parsed.weights, strict=True):
        progress(f"texts of {tokens} tokens")
        before = _statistics(url, (engine,))
        point = load(f"{tokens}:1").points[0]
        times = _between(before, _statistics(url, (engine,)))[engine]
        found.append(LengthTime(tokens=tokens, weight=weight, seconds=times[0].seconds))
        if point.latency is not None:
            spreads.append(np.log(point.latency.p99 / point.latency.p50) / _P99_OF_NORMAL)
    return tuple(found), float(np.median(spreads)) if spreads else 0.0


def _stage(url: str, model: str, times: list[BatchTime]) -> Stage:
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(url) as client:
        config = client.get_model_config(model, as_json=True)["config"]
    batching = config.get("dynamic_batching", {})
    policy = batching.get("default_queue_policy", {})
    return Stage(
        model=model,
        instances=sum(int(group.get("count", 1)) for group in config.get("instance_group", [{}])),
        max_batch=max(1, int(config.get("max_batch_size", 1))) if "dynamic_batching" in config else 1,
        delay_s=int(batching.get("max_queue_delay_microseconds", 0)) / 1e6,
        max_queue=int(policy.get("max_queue_size", 0)),
        times=tuple(times),
    )


def _statistics(url: str, models: Sequence[str]) -> dict[str, Batches]:
    """Executions and nanoseconds by batch size, of each model."""
    import tritonclient.grpc

    found = {}
    with tritonclient.grpc.InferenceServerClient(url) as client:
        for model in models:
            answer = client.get_inference_statistics(model, as_json=True)
            found[model] = _batches(answer["model_stats"][0].get("batch_stats", []))
    return found


def _batches(statistics: Sequence[Mapping[str, Any]]) -> Batches:
    kinds = ("compute_input", "compute_infer", "compute_output")
    return {
        int(each["batch_size"]): (
            int(each["compute_infer"].get("count", 0)),
            sum(int(each.get(kind, {}).get("ns", 0)) for kind in kinds),
        )
        for each in statistics
    }


def _between(before: Mapping[str, Batches], now: Mapping[str, Batches]) -> dict[str, list[BatchTime]]:
    found = {model: batch_times(before[model], batches) for model, batches in now.items()}
    for model, times in found.items():
        if not times:
            raise LoadTestError("was not asked anything", where=f"model {model}", mend="measure for longer")
    return found


def _level(point: Point, run_of_it: LoadRun, others: float) -> Level:
    if point.latency is None:
        kinds = ", ".join(point.error_kinds) or "nothing was answered"
        raise LoadTestError(
            f"requests fail: {kinds}", where=f"{point.level:g} in flight", mend="look into the server's log"
        )
    cores = [sample.cpu for sample in run_of_it.samples if sample.cpu is not None]
    return Level(
        in_flight=int(point.level),
        rate=point.requests_per_second,
        mean_ms=point.latency.mean,
        p50_ms=point.latency.p50,
        p99_ms=point.latency.p99,
        cores=float(np.median(cores)) if cores else 0.0,
        others=others,
    )


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _parts(served: Served) -> tuple[str, ...]:
    """The models with queues that a request passes, the engine last: all but an ensemble itself."""
    return tuple(part for part in served.parts if part != served.model) or (served.model,)
