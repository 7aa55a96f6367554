"""How many servers or GPUs a load takes, and which bound binds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from build_engines.estimate import constants as const
from build_engines.estimate.architecture import Architecture
from build_engines.estimate.calibrate import Calibration
from build_engines.estimate.gpu import batch_time
from build_engines.estimate.hardware import Gpu, efficiency_of
from build_engines.estimate.memory import GpuMemory
from build_engines.estimate.queueing import Service, closed_loop_rate, highest_rate, load_at, make_service
from build_engines.estimate.workload import Workload
from tritonforge.recipe import Precision, Recipe, Task

CORES = (1, 2, 4, 8, 16)
"""Cores of a replica that are tried, and those of the calibration."""

_MOST_SCALING = 8  # beyond so many times the calibrated threads Amdahl's law from two points says little


@dataclass(frozen=True)
class Target:
    """What is asked for.

    Attributes:
        qps: Texts a second.
        p99_s: Highest 99th percentile of the latency, seconds.
        utilisation: Highest share of the capacity that is planned with.
    """

    qps: float
    p99_s: float
    utilisation: float


@dataclass(frozen=True)
class CpuPlan:
    """Replicas of one server on so many cores.

    Attributes:
        cores: Of a replica.
        replicas: How many; 0 if the percentile cannot be met.
        rate: Texts a second that one replica takes within the target.
        capacity: Texts a second of one replica, all batches full.
        idle_p99_s: 99th percentile of a lone text.
        p99_s: At the planned load; None if it cannot be met.
        mean_batch: At the planned load.
        bound: What limits the rate of a replica.
    """

    cores: int
    replicas: int
    rate: float
    capacity: float
    idle_p99_s: float
    p99_s: float | None
    mean_batch: float | None
    bound: str

    @property
    def total_cores(self) -> int:
        """Over all replicas."""
        return self.cores * self.replicas


@dataclass(frozen=True)
class GpuPlan:
    """So many GPUs of one model.

    Attributes:
        gpu: Which.
        precision: Of the linear layers.
        gpus: How many; 0 if the target cannot be met.
        gpus_range: With the optimistic and with the pessimistic efficiency.
        rate: Texts a second of one GPU within the target.
        capacity: Texts a second of one GPU, all batches full.
        idle_p99_s: 99th percentile of a lone text.
        p99_s: At the planned load; None if it cannot be met.
        mean_batch: At the planned load.
        bound: What limits the rate.
        roofline: Which bound of a run binds, with full batches.
        memory: On one GPU.
        host_cores: CPU cores beside one GPU, for server and tokenizer.
    """

    gpu: Gpu
    precision: Precision
    gpus: int
    gpus_range: tuple[int, int]
    rate: float
    capacity: float
    idle_p99_s: float
    p99_s: float | None
    mean_batch: float | None
    bound: str
    roofline: str
    memory: GpuMemory
    host_cores: float


def cpu_service(
    architecture: Architecture,
    recipe: Recipe,
    workload: Workload,
    calibration: Calibration,
    cores: int,
    *,
    weights_bytes: int,
    client: bool = False,
) -> Service:
    """One replica: the engine's time for a batch, and what server and tokenizer take of the same cores.

    Args:
        architecture: For the spread of a batch's work.
        recipe: Queue delay and instances.
        workload: Length mix.
        calibration: Times on the calibrated number of threads.
        cores: Of the replica.
        weights_bytes: Read from memory for each run; small batches wait for it.
        client: Whether a client shares the cores.
    """
    beside = const.SERVER_CPU_S + const.STUB_CPU_S + calibration.tokenize_text_s
    beside += const.CLIENT_CPU_S if client else 0.0
    read_s = weights_bytes / (calibration.bandwidth * min(cores, 2))

    def seconds(batch: float) -> float:
        return max(calibration.scaled_seconds(batch, cores), read_s) + batch * beside / cores

    return make_service(
        seconds,
        workload.max_batch,
        text_costs(architecture, workload),
        workload.weights,
        overhead_s=const.SERVING_LATENCY_S,
        delay_s=recipe.batching.max_queue_delay_us / 1e6,
    )


def plan_cpu(service: Service, cores: int, target: Target) -> CpuPlan:
    """Replicas of a server for a target."""
    rate = highest_rate(service, target.p99_s, target.utilisation)
    replicas = math.ceil(target.qps / rate) if rate > 0 else 0
    load = load_at(service, target.qps / replicas) if replicas else None
    return CpuPlan(
        cores=cores,
        replicas=replicas,
        rate=rate,
        capacity=service.capacity,
        idle_p99_s=service.idle_p99(),
        p99_s=load.p99_s if load else None,
        mean_batch=load.mean_batch if load else None,
        bound=_bound(service, rate, target),
    )


def cores_to_try(calibration: Calibration) -> list[int]:
    """Cores of a replica that the calibration can speak of."""
    most = calibration.threads * _MOST_SCALING
    return sorted({calibration.threads, *(cores for cores in CORES if cores <= most)})


def plan_gpu(
    architecture: Architecture,
    recipe: Recipe,
    task: Task,
    workload: Workload,
    tokenize_text_s: float,
    gpu: Gpu,
    precision: Precision,
    memory: GpuMemory,
    target: Target,
) -> GpuPlan | None:
    """GPUs of one model for a target; None if it lacks the precision."""
    efficiency = efficiency_of(gpu)
    counts: list[int] = []
    rates: list[float] = []
    services: list[Service] = []
    bounds: list[str] = []
    host_s = tokenize_text_s + const.STUB_CPU_S
    host_rate = target.utilisation * recipe.instances.tokenizer / host_s
    for share in (efficiency.high, efficiency.likely, efficiency.low):
        times = batch_time(architecture, task, workload, gpu, precision, share)
        if times is None:
            return None
        service = make_service(
            # mypy gives a lambda's default no type.
            lambda batch, times=times: times(batch).seconds,  # type: ignore[misc]
            workload.max_batch,
            text_costs(architecture, workload),
            workload.weights,
            fixed_s=(lone := times(1)).launch + lone.overhead,
            overhead_s=const.SERVING_LATENCY_S,
            delay_s=recipe.batching.max_queue_delay_us / 1e6,
        )
        rate = min(highest_rate(service, target.p99_s, target.utilisation), host_rate)
        fits = memory.total <= gpu.memory_gb * 1e9
        counts.append(math.ceil(target.qps / rate) if rate > 0 and fits else 0)
        rates.append(rate)
        services.append(service)
        bounds.append(times(workload.max_batch).bound)
    service, rate, gpus = services[1], rates[1], counts[1]
    load = load_at(service, target.qps / gpus) if gpus else None
    bound = _bound(service, rate, target)
    if memory.total > gpu.memory_gb * 1e9:
        bound = "memory: the engine does not fit"
    elif rate == host_rate:
        bound = "tokenizer: raise instances.tokenizer"
    return GpuPlan(
        gpu=gpu,
        precision=precision,
        gpus=gpus,
        gpus_range=(counts[0], counts[2]),
        rate=rate,
        capacity=service.capacity,
        idle_p99_s=service.idle_p99(),
        p99_s=load.p99_s if load else None,
        mean_batch=load.mean_batch if load else None,
        bound=bound,
        roofline=bounds[1],
        memory=memory,
        host_cores=min(target.qps / gpus, rate) * (const.SERVER_CPU_S + host_s) if gpus else 0.0,
    )


def local_rate(service: Service, in_flight: int) -> float:
    """Texts a second of one server with so many requests of one text in flight."""
    return closed_loop_rate(service, in_flight)


def text_costs(architecture: Architecture, workload: Workload) -> tuple[float, ...]:
    """Operations of one text of each length of the mix."""
    per_token = architecture.flops_per_token()
    return tuple(n * per_token + architecture.attention_flops(n**2) for n in workload.tokens)


def best_plan(plans: dict[int, CpuPlan]) -> CpuPlan | None:
    """Fewest cores, then fewest replicas, since each replica has its own memory."""
    possible = [plan for plan in plans.values() if plan.replicas]
    if not possible:
        return None
    return min(possible, key=lambda plan: (plan.total_cores, plan.replicas))


def _bound(service: Service, rate: float, target: Target) -> str:
    """What keeps a server from taking more."""
    if rate <= 0:
        return "p99: even a lone text takes longer"
    if rate < 0.999 * target.utilisation * service.capacity:
        return "p99"
    return "utilisation"
