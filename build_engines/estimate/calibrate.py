"""A short measurement of this machine's CPU: one layer at the model's sizes, and the tokenizer.

What is measured is *not* the model: a graph of one layer and one of two, with random weights
(:mod:`build_engines.estimate.layer`), run by the engine and runner that would serve, on batches drawn from
the recipe's mix. The time of the whole model, of Triton around it, and of a load are predicted from that.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.cache import content_key, disk_error
from build_engines.engines import ENGINES, CompiledEngine, CompileRequest
from build_engines.estimate.architecture import Architecture
from build_engines.estimate.busy import BUSY, OtherLoad
from build_engines.estimate.layer import OUTPUT, VOCABULARY, write_layers
from build_engines.estimate.workload import Run, Workload
from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec
from build_engines.versions import source_hash
from python_backends.runners import Runner
from python_backends.settings import TokenizerSettings
from python_backends.threads import engine_threads
from python_backends.tokenizer.batch import BatchTokenizer
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import EngineName, Precision, Recipe
from tritonforge.server.resources import cpu_name

SECONDS = 12.0
"""Time box of a whole calibration."""

IMBALANCE: dict[EngineName, float] = {"openvino": 1.05, "onnxruntime": 1.2}
"""Wall time of a parallel run over its CPU time a thread, on an idle machine: threads wait for each other,
and ONNX Runtime runs some operators on one."""

_BATCHES = (1, 4, 16, 32, 64)
_MIN_ROUNDS, _MAX_ROUNDS = 3, 15
_TEXT = (
    "The council said on Tuesday that work on the new bridge would begin before winter, although "
    "several residents had asked for another survey of the river and its banks. "
)


@dataclass(frozen=True)
class Calibration:
    """Times on one machine for one model's sizes; seconds.

    Attributes:
        engine: Which engine was measured.
        precision: Of the linear layers.
        threads: Threads of one engine instance.
        cpu: The processor.
        batches: Texts in a batch.
        batch_s: Predicted time of the engine for a batch, in the order of ``batches``: lookup and
            pooling as measured, one layer's time for each of the model's layers.
        one_thread_slowdown: Time of a batch of 16 with one thread, over that with ``threads``.
        tokenize_text_s: CPU time that tokenizing one text of the mix takes.
        bandwidth: Bytes a second that a copy reads and writes, both counted, on ``threads`` cores.
        measured: When, or why not.
        notes: What a reader should know.
    """

    engine: EngineName
    precision: Precision
    threads: int
    cpu: str
    batches: tuple[int, ...]
    batch_s: tuple[float, ...]
    one_thread_slowdown: float
    tokenize_text_s: float
    bandwidth: float
    measured: str
    notes: tuple[str, ...] = ()

    def seconds(self, batch: float) -> float:
        """Time of a batch with :attr:`threads` threads, between and beyond the measured sizes."""
        sizes, times = self.batches, self.batch_s
        if batch <= sizes[-1]:
            return float(np.interp(batch, sizes, times))
        slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2])
        return times[-1] + slope * (batch - sizes[-1])

    def serial_share(self) -> float:
        """Share of a batch's work that more threads do not speed up, by Amdahl's law from the two points."""
        if self.threads == 1:
            return 0.05  # nothing to measure with one core: assumed
        speedup = self.one_thread_slowdown
        share = (self.threads / speedup - 1) / (self.threads - 1)
        return min(max(share, 0.01), 0.5)

    def scaled_seconds(self, batch: float, threads: int) -> float:
        """Time of a batch with another number of threads, by Amdahl's law."""
        serial = self.serial_share()
        factor = (serial + (1 - serial) / threads) / (serial + (1 - serial) / self.threads)
        return self.seconds(batch) * factor


def calibrate(
    recipe: Recipe,
    files: ModelFiles,
    spec: ModelSpec,
    architecture: Architecture,
    workload: Workload,
    engine: EngineName,
    precision: Precision,
    cache: Path,
    *,
    again: bool = False,
) -> Calibration:
    """Measure, or read what was measured on this processor before.

    Args:
        recipe: Threads and batching.
        files: For the tokenizer.
        spec: Longest text.
        architecture: Sizes of the layer.
        workload: Lengths to measure at.
        engine: A CPU engine.
        precision: Of the linear layers; INT8 with Q/DQ is measured as dynamic INT8, which needs no
            calibration text.
        cache: Folder of earlier measurements.
        again: Measure even if there is one.

    Raises:
        EngineError: If the engine refuses the layer.
        BuildError: If the cache cannot be written.
    """
    threads = engine_threads(recipe.threads.engine, recipe.instances.engine)
    key = content_key(
        cpu=cpu_name(),
        threads=threads,
        precision=precision,
        versions=ENGINES[engine].describe(),
        architecture=asdict(architecture),
        workload=asdict(workload),
        code=source_hash(__file__),
    )
    path = cache / f"{engine}-{key}.json"
    if path.is_file() and not again:
        return _read(path)
    with tempfile.TemporaryDirectory(prefix="tritonforge-calibrate-") as folder:
        made = _measure(Path(folder), recipe, files, spec, architecture, workload, engine, precision, threads)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(made), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise disk_error(error, cache) from error
    return made


def assumed(
    recipe: Recipe,
    architecture: Architecture,
    workload: Workload,
    engine: EngineName,
    precision: Precision,
) -> Calibration:
    """Stated defaults instead of a measurement (``--no-calibrate``)."""
    threads = engine_threads(recipe.threads.engine, recipe.instances.engine)
    rate = assumed_flops(precision) * threads
    batch_s = tuple(
        assumed_run_s(architecture) + batch * mean_flops(architecture, workload) / rate for batch in _BATCHES
    )
    return Calibration(
        engine=engine,
        precision=precision,
        threads=threads,
        cpu=cpu_name(),
        batches=_BATCHES,
        batch_s=batch_s,
        one_thread_slowdown=1 / (0.05 + 0.95 / threads),
        tokenize_text_s=2.5e-6 * workload.mean_tokens,
        bandwidth=10e9 * threads,
        measured="not measured: stated defaults",
        notes=(
            f"{assumed_flops(precision) / 1e9:.0f} GFLOP/s a core assumed in {precision}, by the "
            "instructions that the CPU has",
        ),
    )


def assumed_flops(precision: Precision) -> float:
    """Rate of one core for the linear layers, FLOP/s: about half of what its vector units could do."""
    flags = _cpu_flags()
    single = 100e9 if "avx512f" in flags else 40e9 if "avx2" in flags else 15e9
    faster = 2.0 if {"avx512_vnni", "avx_vnni"} & flags else 1.4
    return single * (faster if precision in {"int8", "int8-dynamic"} else 1.0)


def assumed_run_s(architecture: Architecture) -> float:
    """What a run costs whatever is in it: some 10 operators a layer of some microseconds each."""
    return 2e-4 + 5e-5 * architecture.layers


def mean_flops(architecture: Architecture, workload: Workload) -> float:
    """Of one text of the mix; attention with a quarter of padding in its rectangles."""
    linear = architecture.flops_per_token() * workload.mean_tokens
    return linear + 1.25 * architecture.attention_flops(workload.mean_square)


def _measure(
    folder: Path,
    recipe: Recipe,
    files: ModelFiles,
    spec: ModelSpec,
    architecture: Architecture,
    workload: Workload,
    engine: EngineName,
    precision: Precision,
    threads: int,
) -> Calibration:
    """The measurement itself."""
    notes: list[str] = []
    measured_precision: Precision = precision
    if precision == "int8":
        measured_precision = "int8-dynamic"
        notes.append("the layer is measured in dynamic INT8, in place of INT8 with Q/DQ")
    compiled = {
        layers: _compile(folder, spec, recipe, architecture, engine, measured_precision, layers)
        for layers in (1, 2)
    }
    runners = {layers: ENGINES[engine].load(each, threads) for layers, each in compiled.items()}
    load = OtherLoad()
    rng = np.random.default_rng(0)
    batches = tuple(batch for batch in _BATCHES if batch <= workload.max_batch) or (1,)
    batch_s = []
    for batch in batches:
        draws = [workload.draw(batch, rng, jitter=True) for _ in range(_MAX_ROUNDS)]
        times = _time_batches(runners, draws, SECONDS * 0.6 / len(batches), load, IMBALANCE[engine])
        whole = times[:, 0] + (architecture.layers - 1) * np.maximum(times[:, 1] - times[:, 0], 0)
        batch_s.append(float(whole.mean()))
    slowdown = 1.0
    if threads > 1:
        middle = [workload.draw(min(16, workload.max_batch), rng, jitter=True) for _ in range(5)]
        single = {2: ENGINES[engine].load(compiled[2], 1)}
        with_one = _time_batches(single, middle, SECONDS * 0.15, load, IMBALANCE[engine])[:, 0]
        with_all = _time_batches({2: runners[2]}, middle, SECONDS * 0.1, load, IMBALANCE[engine])[:, 0]
        rounds = min(len(with_one), len(with_all))
        slowdown = max(1.0, float(with_one[:rounds].mean() / with_all[:rounds].mean()))
    if load.share() >= BUSY:
        notes.append(
            f"others took {load.share():.0%} of the processor meanwhile: CPU time was counted, not wall time"
        )
    return Calibration(
        engine=engine,
        precision=precision,
        threads=threads,
        cpu=cpu_name(),
        batches=batches,
        batch_s=tuple(batch_s),
        one_thread_slowdown=slowdown,
        tokenize_text_s=_tokenize_seconds(files, recipe, spec, workload),
        bandwidth=_bandwidth(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=tuple(notes),
    )


def _compile(
    folder: Path,
    spec: ModelSpec,
    recipe: Recipe,
    architecture: Architecture,
    engine: EngineName,
    precision: Precision,
    layers: int,
) -> CompiledEngine:
    """Write the layers and hand them to the engine."""
    onnx_path = folder / f"{layers}-layers.onnx"
    write_layers(architecture, layers, onnx_path)
    places = {name: folder / f"{layers}-{name}" for name in ("engine", "notes", "cache")}
    for place in places.values():
        place.mkdir()
    request = CompileRequest(
        onnx_path, precision, "packed", spec, recipe, places["engine"], places["notes"], places["cache"]
    )
    file = ENGINES[engine].compile(request)
    return CompiledEngine(engine, precision, "packed", places["engine"], file)


def _time_batches(
    runners: dict[int, Runner], draws: list[list[Run]], seconds: float, load: OtherLoad, imbalance: float
) -> NDArray[np.float64]:
    """Seconds of each drawn batch on each runner, in turns; float64 [draws, runners].

    Each draw is run three times and the better of the last two counts: the first may compile kernels for
    its shapes. Where others keep the processor busy, wall time tells of them; CPU time over the threads
    is taken then.
    """
    start = time.perf_counter()
    rows = []
    for number, runs in enumerate(draws):
        feeds = [_feed(run) for run in runs]
        row = []
        for runner in runners.values():
            times = [_run_once(runner, feeds) for _ in range(3)][1:]
            row.append(min(times))
        rows.append(row)
        if number + 1 >= _MIN_ROUNDS and time.perf_counter() - start > seconds:
            break
    walls_and_cpu = np.array(rows)
    threads = np.array([runner.threads for runner in runners.values()])
    wall, cpu = walls_and_cpu[..., 0], walls_and_cpu[..., 1]
    if load.share() < BUSY:
        return wall
    return np.minimum(wall, cpu / threads * imbalance)


def _run_once(runner: Runner, feeds: list[dict[str, NDArray[np.int32]]]) -> tuple[float, float]:
    """Wall and CPU seconds of one batch."""
    wall, cpu = time.perf_counter(), time.process_time()
    for feed in feeds:
        runner.run(feed)
    return time.perf_counter() - wall, time.process_time() - cpu


def _feed(run: Run) -> dict[str, NDArray[np.int32]]:
    """Packed inputs of a run; where the model is padded, every text is as long as the longest."""
    lengths = np.full(run.sequences, run.longest) if run.padded else run.lengths
    offsets = np.zeros(run.sequences + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    ids = np.arange(int(offsets[-1]), dtype=np.int32) % VOCABULARY
    return {"input_ids": ids, "cu_seqlens": offsets, "max_seqlen": np.zeros(run.longest, np.int32)}


def _tokenize_seconds(files: ModelFiles, recipe: Recipe, spec: ModelSpec, workload: Workload) -> float:
    """CPU seconds of one text, from batches of 32 English texts of the mix's lengths."""
    path = files.folder / "tokenizer.json"
    if not path.is_file():
        return 2.5e-6 * workload.mean_tokens
    settings = TokenizerSettings(
        max_length=spec.max_length, max_text_bytes=recipe.limits.max_text_bytes, threads=1
    )
    try:
        tokenizer = BatchTokenizer(path, settings)
    except (ValueError, TritonForgeError):
        return 2.5e-6 * workload.mean_tokens
    rng = np.random.default_rng(0)
    words = _TEXT.split()
    texts = [
        " ".join(words[i % len(words)] for i in range(max(1, int(n * 0.75))))
        for n in rng.choice(np.array(workload.tokens), size=32, p=np.array(workload.weights)).tolist()
    ]
    requests: list[NDArray[Any]] = [np.array([[text.encode()]], dtype=object) for text in texts]
    tokenizer.tokenize(requests)
    begun = time.process_time()
    for _ in range(5):
        tokenizer.tokenize(requests)
    return (time.process_time() - begun) / (5 * len(texts))


def _bandwidth() -> float:
    """Copy 128 MB, far beyond the caches; bytes read and written a second by one core."""
    source = np.ones(16 << 20)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - begun)
    return 2 * source.nbytes / best


def _read(path: Path) -> Calibration:
    """An earlier measurement."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("batches", "batch_s", "notes"):
        values[name] = tuple(values[name])
    return Calibration(**values)


def _cpu_flags() -> set[str]:
    """Instruction sets, from the kernel."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


__all__ = ["OUTPUT", "Calibration", "assumed", "calibrate"]
