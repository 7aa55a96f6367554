"""``tritonforge estimate``: memory, work, replicas and GPUs for a load, without running the service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from build_engines.engines import ENGINES
from build_engines.estimate import constants as const
from build_engines.estimate.architecture import Architecture, packs, read_architecture, rest_bytes
from build_engines.estimate.calibrate import Calibration, assumed, calibrate
from build_engines.estimate.graph import Graph
from build_engines.estimate.hardware import DEFAULT_GPUS, efficiency_of, find_gpus
from build_engines.estimate.memory import Activations, CpuMemory, activations, cpu_memory, gpu_memory
from build_engines.estimate.plan import (
    CpuPlan,
    GpuPlan,
    Target,
    best_plan,
    cores_to_try,
    cpu_service,
    local_rate,
    plan_cpu,
    plan_gpu,
)
from build_engines.estimate.workload import Workload
from build_engines.model_files import find_model
from build_engines.spec import settle_spec
from tritonforge.errors import EngineError, UsageError
from tritonforge.recipe import EngineName, Precision, Recipe, Task

CPU_ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")
IN_FLIGHT = (1, 16, 64)
SHOWN_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4-weights")


@dataclass(frozen=True)
class CpuEstimate:
    """One CPU engine.

    Attributes:
        engine: Which.
        precision: Of the linear layers.
        calibration: What its times come from.
        memory: Of one server.
        plans: By cores of a replica.
        best: The plan with the fewest cores, None if none meets the target.
        local_rates: Texts a second on the calibrated threads with so many requests in flight, the
            client on the same cores, as on a machine that is tried out.
    """

    engine: EngineName
    precision: Precision
    calibration: Calibration
    memory: CpuMemory
    plans: tuple[CpuPlan, ...]
    best: CpuPlan | None
    local_rates: dict[int, float]


@dataclass(frozen=True)
class Estimate:
    """Everything that was worked out.

    Attributes:
        name: The recipe's.
        task: embedding or classification.
        target: What was asked for.
        architecture: The model's sizes.
        workload: Length mix and batching.
        weights: Bytes of the served weights, by precision; ``engine`` keys say what the rest stays in.
        activations: In float32 on the CPU.
        gpu_activations: In FP16 with fused attention.
        flops: By text length of the mix: linear and attention FLOPs of one text.
        cpu: CPU engines, best first.
        gpus: GPUs and precisions.
        notes: What was assumed, left out, or cannot be met.
    """

    name: str
    task: Task
    target: Target
    architecture: Architecture
    workload: Workload
    weights: dict[str, dict[Precision, int]]
    activations: Activations
    gpu_activations: Activations
    flops: dict[int, dict[str, float]]
    cpu: tuple[CpuEstimate, ...]
    gpus: tuple[GpuPlan, ...]
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """All of it, in values that JSON knows; bytes, seconds, and FLOPs."""
        return {
            "name": self.name,
            "task": self.task,
            "target": asdict(self.target),
            "model": {
                **asdict(self.architecture),
                "parameters_total": self.architecture.total,
                "flops_per_token": self.architecture.flops_per_token(),
            },
            "workload": {**asdict(self.workload), "mean_tokens": self.workload.mean_tokens},
            "weights_bytes": self.weights,
            "activations": asdict(self.activations),
            "gpu_activations": asdict(self.gpu_activations),
            "flops_per_text": {str(length): flops for length, flops in self.flops.items()},
            "cpu": [_cpu_dict(each) for each in self.cpu],
            "gpus": [_gpu_dict(plan) for plan in self.gpus],
            "notes": list(self.notes),
        }


def estimate(
    recipe: Recipe,
    *,
    qps: float,
    p99_ms: float,
    gpus: Iterable[str] = (),
    utilisation: float = 0.7,
    build_dir: Path = Path("build"),
    calibration: bool = True,
    again: bool = False,
) -> Estimate:
    """Estimate a recipe for a load.

    Args:
        recipe: The recipe; its model is read, nothing of it is run.
        qps: Texts a second.
        p99_ms: Highest 99th percentile of the latency, milliseconds.
        gpus: Names of GPUs; a short list of common ones if none is given.
        utilisation: Highest share of the capacity to plan with.
        build_dir: Where an export of the recipe may lie, and calibrations are kept.
        calibration: Measure this machine's CPU for some seconds; stated defaults otherwise.
        again: Measure even if it was done before.

    Raises:
        UsageError: A value is out of its range.
        RecipeError: A GPU is unknown, or the recipe asks for what the model cannot do.
        ModelFilesError: The model's files are missing or damaged.
    """
    target = _target(qps, p99_ms, utilisation)
    chosen = find_gpus(gpus or DEFAULT_GPUS)
    files = find_model(recipe.model)
    spec = settle_spec(recipe, files)
    architecture = read_architecture(files)
    path = exported_graph(build_dir, recipe.name)
    graph = Graph(path) if path else None
    layout = packs(recipe, files.config)
    workload = Workload.of(recipe, spec.max_length, layout)
    notes = list(spec.notes)
    if graph is None:
        notes.append(
            f"no export of {recipe.name!r} in {build_dir}: activations follow from a formula; "
            "after `tritonforge build` they follow from the graph"
        )
    peak = activations(architecture, workload, graph)
    gpu_peak = activations(architecture, workload, graph, float_bytes=2, fused_attention=True)
    cpu: list[CpuEstimate] = []
    for engine in _cpu_engines(recipe):
        precision = cpu_precision(recipe.precision, engine)
        if precision is None:
            notes.append(f"{engine} serves no {recipe.precision}: left out")
            continue
        met = workload.on(engine)
        arguments = (recipe, files, spec, architecture, met, engine, precision)
        try:
            times = (
                calibrate(*arguments, build_dir / "calibration", again=again)
                if calibration
                else assumed(recipe, architecture, met, engine, precision)
            )
        except EngineError as error:
            notes.append(f"{engine} could not be calibrated: {error.what}")
            continue
        at_once = activations(architecture, met, graph)
        memory = cpu_memory(recipe, files, spec.task, architecture, met, at_once, engine, precision)
        cpu.append(_estimate_cpu(recipe, spec.task, architecture, met, times, memory, target))
    cpu.sort(key=lambda each: (each.best.total_cores if each.best else float("inf"), -each.local_rates[64]))
    tokenize_s = cpu[0].calibration.tokenize_text_s if cpu else 2.5e-6 * workload.mean_tokens
    plans = [
        plan
        for gpu in chosen
        for precision in gpu_precisions(recipe.precision)
        if (
            plan := plan_gpu(
                architecture,
                recipe,
                spec.task,
                workload,
                tokenize_s,
                gpu,
                precision,
                gpu_memory(recipe, spec.task, architecture, gpu_peak, precision),
                target,
            )
        )
    ]
    notes += [
        f"{gpu.name} has no tensor cores for {precision}: left out"
        for gpu in chosen
        for precision in gpu_precisions(recipe.precision)
        if gpu.peak(precision) is None
    ]
    notes += _unmet(cpu, plans, target)
    return Estimate(
        name=recipe.name,
        task=spec.task,
        target=target,
        architecture=architecture,
        workload=workload,
        weights={
            kind: {p: architecture.weight_bytes(spec.task, p, rest_bytes(kind)) for p in SHOWN_PRECISIONS}
            for kind in ("onnxruntime", "tensorrt")
        },
        activations=peak,
        gpu_activations=gpu_peak,
        flops={
            n: {
                "linear": float(n * architecture.flops_per_token()),
                "attention": architecture.attention_flops(n * n),
            }
            for n in workload.tokens
        },
        cpu=tuple(cpu),
        gpus=tuple(plans),
        notes=tuple(dict.fromkeys(notes)),
    )


def exported_graph(build_dir: Path, name: str) -> Path | None:
    """The newest packed or padded export of a recipe, None if there is none."""
    found = sorted(
        (build_dir / name / "artifacts").glob("export-*/model.onnx"), key=lambda path: path.stat().st_mtime
    )
    return found[-1] if found else None


def cpu_precision(precision: Precision | str, engine: EngineName) -> Precision | None:
    """What a CPU engine serves for a recipe's precision; None if it cannot."""
    # Narrowed by value.
    wanted: Precision = "fp32" if precision == "auto" else precision  # type: ignore[assignment]
    return wanted if wanted in ENGINES[engine].precisions else None


def gpu_precisions(precision: Precision | str) -> tuple[Precision, ...]:
    """What TensorRT would serve: FP16 and INT8, or what the recipe names."""
    if precision in {"auto", "fp32", "int8-dynamic", "int8-weights"}:
        return ("fp16", "int8")
    return (precision,)  # type: ignore[return-value]  # narrowed by value


def _estimate_cpu(
    recipe: Recipe,
    task: Task,
    architecture: Architecture,
    workload: Workload,
    times: Calibration,
    memory: CpuMemory,
    target: Target,
) -> CpuEstimate:
    """Plans of one engine."""
    weights = architecture.weight_bytes(task, times.precision, rest_bytes(times.engine))
    read = weights - rest_bytes(times.engine) * architecture.parameters["embedding"]
    plans = {
        cores: plan_cpu(
            cpu_service(architecture, recipe, workload, times, cores, weights_bytes=read), cores, target
        )
        for cores in cores_to_try(times)
    }
    local = cpu_service(architecture, recipe, workload, times, times.threads, weights_bytes=read, client=True)
    return CpuEstimate(
        engine=times.engine,
        precision=times.precision,
        calibration=times,
        memory=memory,
        plans=tuple(plans.values()),
        best=best_plan(plans),
        local_rates={in_flight: local_rate(local, in_flight) for in_flight in IN_FLIGHT},
    )


def _cpu_engines(recipe: Recipe) -> tuple[EngineName, ...]:
    """Engines to estimate: the recipe's, or both; none for TensorRT."""
    if recipe.engine == "auto":
        return CPU_ENGINES
    return (recipe.engine,) if recipe.engine in CPU_ENGINES else ()


def _target(qps: float, p99_ms: float, utilisation: float) -> Target:
    """Check what was asked for."""
    for option, value in (("--qps", qps), ("--p99-ms", p99_ms)):
        if not 0 < value < float("inf"):
            raise UsageError(f"must be a positive number, not {value:g}", where=option)
    if not 0 < utilisation <= 0.95:
        raise UsageError(
            f"must be above 0 and at most 0.95, not {utilisation:g}",
            where="--utilisation",
            mend="a queue that is used wholly grows without bound; 0.7 leaves room for bursts",
        )
    return Target(qps, p99_ms / 1e3, utilisation)


def _unmet(cpu: list[CpuEstimate], gpus: list[GpuPlan], target: Target) -> list[str]:
    """Say what cannot meet the percentile even without load, and what to try."""
    notes = []
    for each in cpu:
        if each.best is None:
            fastest = min(each.plans, key=lambda plan: plan.idle_p99_s)
            notes.append(
                f"{each.engine} {each.precision}: p99 of {target.p99_s * 1e3:g} ms cannot be met; a lone "
                f"text takes {fastest.idle_p99_s * 1e3:.0f} ms at the 99th percentile on {fastest.cores} "
                "cores. Try a shorter max_length, precision int8-dynamic, a smaller model, or a GPU"
            )
    for plan in gpus:
        if not plan.gpus:
            notes.append(
                f"{plan.gpu.name} {plan.precision}: cannot meet the target ({plan.bound}); a lone text "
                f"takes {plan.idle_p99_s * 1e3:.1f} ms at the 99th percentile, and "
                f"{plan.memory.total / 1e9:.1f} of {plan.gpu.memory_gb:g} GB are needed"
            )
    return notes


def _cpu_dict(each: CpuEstimate) -> dict[str, Any]:
    """One CPU engine for JSON."""
    return {
        "engine": each.engine,
        "precision": each.precision,
        "memory": {**asdict(each.memory), "loaded": each.memory.loaded, "total": each.memory.total},
        "calibration": {**asdict(each.calibration), "serial_share": each.calibration.serial_share()},
        "plans": [{**asdict(plan), "total_cores": plan.total_cores} for plan in each.plans],
        "best": {**asdict(each.best), "total_cores": each.best.total_cores} if each.best else None,
        "in_flight_texts_per_second": {str(key): value for key, value in each.local_rates.items()},
        "server_cpu_s_per_text": const.SERVER_CPU_S + const.STUB_CPU_S + each.calibration.tokenize_text_s,
    }


def _gpu_dict(plan: GpuPlan) -> dict[str, Any]:
    """One GPU for JSON."""
    return {
        **asdict(plan),
        "memory": {**asdict(plan.memory), "total": plan.memory.total},
        "efficiency": asdict(efficiency_of(plan.gpu)),
    }
