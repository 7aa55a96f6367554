"""GPUs by public figures: dense tensor peaks, memory, power, and the NVIDIA document that says so.

Peaks are *dense*: datasheets of Ampere and later often print twice as much, "with sparsity". Decimal
units throughout, as datasheets use them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonforge.errors import RecipeError

TERA = 1e12
GIGA = 1e9


@dataclass(frozen=True)
class Gpu:
    """One GPU model.

    Attributes:
        key: What ``--gpu`` takes.
        name: As NVIDIA writes it.
        compute_capability: For instance ``(9, 0)``.
        fp16_tflops: Dense FP16 tensor peak with FP32 accumulation, TFLOP/s; BF16 is the same.
        int8_tops: Dense INT8 tensor peak, TOP/s.
        fp8_tflops: Dense FP8 tensor peak, TFLOP/s; None where the tensor cores know no FP8.
        bandwidth_gb_s: Memory bandwidth, GB/s.
        memory_gb: Memory, GB.
        tdp_w: Board power, watts.
        source: The NVIDIA document of the figures.
    """

    key: str
    name: str
    compute_capability: tuple[int, int]
    fp16_tflops: float
    int8_tops: float
    fp8_tflops: float | None
    bandwidth_gb_s: float
    memory_gb: float
    tdp_w: int
    source: str

    def peak(self, precision: str) -> float | None:
        """Dense peak of the linear layers in operations a second; None if the GPU lacks the precision.

        Weight-only precisions compute in FP16. FP32 is not served on GPUs; it counts as FP16.
        """
        if precision == "int8":
            return self.int8_tops * TERA
        if precision == "fp8":
            return None if self.fp8_tflops is None else self.fp8_tflops * TERA
        return self.fp16_tflops * TERA

    @property
    def bandwidth(self) -> float:
        """Memory bandwidth, bytes a second."""
        return self.bandwidth_gb_s * GIGA

    @property
    def low_power(self) -> bool:
        """Cards of at most 75 W, which cannot hold their boost clock under tensor load."""
        return self.tdp_w <= 75


@dataclass(frozen=True)
class Efficiency:
    """Share of the tensor peak that a TensorRT encoder reaches on large batches: an assumption.

    Attributes:
        low: Pessimistic.
        likely: What replicas are counted with.
        high: Optimistic.
    """

    low: float
    likely: float
    high: float


EFFICIENCY = Efficiency(low=0.30, likely=0.40, high=0.60)
"""Bounds of what the public anchors reach: see :mod:`build_engines.estimate.anchors`."""

LOW_POWER_EFFICIENCY = Efficiency(low=0.20, likely=0.26, high=0.35)
"""T4 and L4 (70 and 72 W) reach less: their clocks fall under load."""

BANDWIDTH_EFFICIENCY = 0.8
"""Share of the memory bandwidth that streaming kernels reach: an assumption."""

_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet"
_GA102 = "NVIDIA Ampere GA102 GPU architecture whitepaper, appendix"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix"

GPUS: tuple[Gpu, ...] = (
    Gpu("t4", "T4", (7, 5), 65, 130, None, 320, 16, 70, "NVIDIA T4 datasheet"),
    Gpu("a10", "A10", (8, 6), 125, 250, None, 600, 24, 150, "NVIDIA A10 datasheet"),
    Gpu("a30", "A30", (8, 0), 165, 330, None, 933, 24, 165, "NVIDIA A30 datasheet"),
    Gpu("a100-40", "A100 SXM 40 GB", (8, 0), 312, 624, None, 1555, 40, 400, _AMPERE),
    Gpu("a100-80", "A100 SXM 80 GB", (8, 0), 312, 624, None, 2039, 80, 400, _AMPERE),
    Gpu("a100-80-pcie", "A100 PCIe 80 GB", (8, 0), 312, 624, None, 1935, 80, 300, _AMPERE),
    Gpu("l4", "L4", (8, 9), 121, 242.5, 242.5, 300, 24, 72, "NVIDIA L4 datasheet"),
    Gpu("l40s", "L40S", (8, 9), 362, 733, 733, 864, 48, 350, "NVIDIA L40S datasheet"),
    Gpu("rtx3090", "GeForce RTX 3090", (8, 6), 71, 284, None, 936, 24, 350, _GA102),
    Gpu("rtx4090", "GeForce RTX 4090", (8, 9), 165.2, 660.6, 330.3, 1008, 24, 450, _ADA),
    Gpu("h100-pcie", "H100 PCIe 80 GB", (9, 0), 756, 1513, 1513, 2000, 80, 350, _HOPPER),
    Gpu("h100-sxm", "H100 SXM 80 GB", (9, 0), 989.4, 1978.9, 1978.9, 3350, 80, 700, _HOPPER),
    Gpu("h200", "H200 SXM", (9, 0), 989.4, 1978.9, 1978.9, 4800, 141, 700, "NVIDIA H200 datasheet"),
    Gpu(
        "b200",
        "B200 (HGX)",
        (10, 0),
        2250,
        4500,
        4500,
        7700,
        180,
        1000,
        "NVIDIA Blackwell datasheet, HGX B200",
    ),
)

ALIASES = {"a100": "a100-80", "h100": "h100-sxm", "4090": "rtx4090", "3090": "rtx3090"}

DEFAULT_GPUS = ("t4", "l4", "a10", "a100-80", "h100-sxm")
"""Shown where the user names none."""

_BY_KEY = {gpu.key: gpu for gpu in GPUS}


def find_gpu(key: str) -> Gpu:
    """The GPU that ``--gpu`` names.

    Raises:
        RecipeError: With the names that are known.
    """
    wanted = key.strip().lower()
    found = _BY_KEY.get(ALIASES.get(wanted, wanted))
    if found is None:
        known = ", ".join(sorted([*_BY_KEY, *ALIASES]))
        raise RecipeError(f"unknown GPU {key!r}", where="--gpu", mend=f"known: {known}")
    return found


def find_gpus(keys: Iterable[str]) -> list[Gpu]:
    """Several, each once, in the order given."""
    return list(dict.fromkeys(find_gpu(key) for key in keys))


def efficiency_of(gpu: Gpu) -> Efficiency:
    """The efficiency assumed for a GPU."""
    return LOW_POWER_EFFICIENCY if gpu.low_power else EFFICIENCY
