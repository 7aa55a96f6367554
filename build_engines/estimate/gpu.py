"""Time of a run on a GPU, by a roofline with a floor for small kernels. Nothing here was run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from build_engines.estimate import constants as const
from build_engines.estimate.architecture import Architecture
from build_engines.estimate.hardware import BANDWIDTH_EFFICIENCY, Gpu
from build_engines.estimate.workload import Workload
from tritonforge.recipe import Layout, Precision, Task

_DRAWS = 64
_FLOAT_BYTES = 2


@dataclass(frozen=True)
class RunTime:
    """Bounds of one run; seconds. The largest of the first three, and the overhead, is its time.

    Attributes:
        compute: Tensor operations at the assumed share of the peak.
        memory: Weights and activations through the memory.
        launch: Number of kernels times the least time of one.
        overhead: Copies and the backend.
    """

    compute: float
    memory: float
    launch: float
    overhead: float = const.RUN_OVERHEAD_S

    @property
    def seconds(self) -> float:
        """Time of the run."""
        return max(self.compute, self.memory, self.launch) + self.overhead

    @property
    def bound(self) -> str:
        """Which bound binds."""
        times = {"compute": self.compute, "memory bandwidth": self.memory, "kernel launches": self.launch}
        return max(times, key=lambda name: times[name])


def run_time(
    architecture: Architecture,
    task: Task,
    gpu: Gpu,
    precision: Precision,
    *,
    tokens: float,
    cells: float,
    efficiency: float,
    layout: Layout = "packed",
) -> RunTime | None:
    """Time of one run; None if the GPU lacks the precision.

    Args:
        architecture: Sizes.
        task: Whether the head is run.
        gpu: Which.
        precision: Of the linear layers; attention is computed in FP16.
        tokens: On the token axis.
        cells: Pairs of tokens in the attention rectangle.
        efficiency: Share of the tensor peak.
        layout: The packed graph has more, small, kernels.
    """
    peak, half = gpu.peak(precision), gpu.peak("fp16")
    if peak is None or half is None:
        return None
    linear = architecture.flops_per_token() * tokens / peak
    attention = architecture.attention_flops(cells) / half
    # Each written and read once: q, k, v, context, two outputs, two norms, and the wide activation; the
    # packed graph gathers q, k, v and the context once more.
    narrow = 12 if layout == "packed" else 8
    elements = tokens * architecture.layers * (narrow * architecture.hidden + architecture.intermediate)
    traffic = architecture.weight_bytes(task, precision, 2) + 2 * _FLOAT_BYTES * elements
    per_layer = const.PACKED_KERNELS_PER_LAYER if layout == "packed" else const.KERNELS_PER_LAYER
    kernels = per_layer * architecture.layers + const.KERNELS_BESIDE
    return RunTime(
        compute=(linear + attention) / efficiency,
        memory=traffic / (gpu.bandwidth * BANDWIDTH_EFFICIENCY),
        launch=kernels * const.KERNEL_FLOOR_S,
    )


def batch_time(
    architecture: Architecture,
    task: Task,
    workload: Workload,
    gpu: Gpu,
    precision: Precision,
    efficiency: float,
) -> Callable[[float], RunTime] | None:
    """Mean time of a batch of so many texts, in one run a token budget; None without the precision.

    Triton packs a batch in arrival order: the attention rectangle is as wide as its longest text.
    """
    if gpu.peak(precision) is None:
        return None

    def seconds(batch: float) -> RunTime:
        tokens, cells = _batch_shape(workload, max(1, round(batch)))
        runs = max(1.0, tokens / workload.token_budget)
        found = run_time(
            architecture,
            task,
            gpu,
            precision,
            tokens=tokens / runs,
            cells=cells / runs,
            efficiency=efficiency,
            layout=workload.layout,
        )
        assert found is not None
        return RunTime(*(part * runs for part in (found.compute, found.memory, found.launch, found.overhead)))

    return seconds


@lru_cache(maxsize=4096)
def _batch_shape(workload: Workload, texts: int) -> tuple[float, float]:
    """Mean tokens and attention cells of a batch."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.array(workload.tokens), size=(_DRAWS, texts), p=np.array(workload.weights))
    longest = drawn.max(axis=1)
    tokens = texts * longest if workload.layout == "padded" else drawn.sum(axis=1)
    return float(tokens.mean()), float((texts * longest.astype(float) ** 2).mean())
