"""GPUs: DCGM's exporter, and what Triton says of them itself."""

from __future__ import annotations

from observability.dashboards.board import Board, choice
from observability.dashboards.panels import Panel, levels, number, query, series
from observability.dashboards.promql import rate, share

GPU_METRICS = ("DCGM_FI_", "nv_gpu_", "nv_energy_consumption")
"""Beginnings of the metrics that exist only on a machine with a GPU: expressions with them cannot be tried on
one without, beyond that they are valid PromQL."""

_GPU = 'gpu=~"$gpu", instance=~"$instance"'
_WHICH = "{{instance}} GPU {{gpu}}"
_TRITON = 'instance=~"$instance"'


def board() -> Board:
    """Utilisation, memory, power and health of each GPU."""
    return (
        Board(
            "gpu",
            "GPU",
            "What the GPUs do, by DCGM's exporter, beside what Triton tells of them. Empty on CPU machines.",
            choice(
                "instance",
                "Instance",
                'label_values({__name__=~"DCGM_FI_DEV_GPU_UTIL|nv_gpu_utilization"}, instance)',
            ),
            choice("gpu", "GPU", "label_values(DCGM_FI_DEV_GPU_UTIL, gpu)"),
        )
        .row("Now", *_now())
        .row("Work", *_work())
        .row("Memory", *_memory())
        .row("Power, heat, faults", *_power())
    )


def _now() -> tuple[Panel, ...]:
    return (
        number(
            "GPUs",
            "GPUs that DCGM's exporter tells of.",
            "none",
            query(f"count(DCGM_FI_DEV_GPU_UTIL{{{_GPU}}})"),
            width=6,
        ),
        number(
            "Mean utilisation",
            "Share of the time in which any kernel ran. 1 does not mean that the GPU is full: look at the "
            "tensor cores and the memory bandwidth below.",
            "percentunit",
            query(f"avg(DCGM_FI_DEV_GPU_UTIL{{{_GPU}}}) / 100"),
            width=6,
        ),
        number(
            "Memory in use",
            "Frame buffer of all GPUs. Engines and their contexts are loaded once; growth afterwards is "
            "workspace or a KV cache.",
            "percentunit",
            query(
                f"sum(DCGM_FI_DEV_FB_USED{{{_GPU}}}) / (sum(DCGM_FI_DEV_FB_USED{{{_GPU}}}) "
                f"+ sum(DCGM_FI_DEV_FB_FREE{{{_GPU}}}))"
            ),
            width=6,
            levels=levels(0.9, 0.97),
        ),
        number(
            "XID errors",
            "Code of the last error that the driver reported, 0: none. 13, 31 and 43 are a program's fault; "
            "48, 63, 64, 74, 79, 94 and 95 the hardware's: drain the node.",
            "none",
            query(f"max(DCGM_FI_DEV_XID_ERRORS{{{_GPU}}})"),
            width=6,
            levels=levels(1, 1),
        ),
    )


def _work() -> tuple[Panel, ...]:
    return (
        series(
            "Utilisation",
            "Share of the time in which a kernel ran.",
            "percentunit",
            query(f"DCGM_FI_DEV_GPU_UTIL{{{_GPU}}} / 100", _WHICH),
            most=1,
        ),
        series(
            "Graphics engine",
            "Share of time in which the compute engine was busy, by the profiler: finer than utilisation.",
            "percentunit",
            query(f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{_GPU}}}", _WHICH),
            most=1,
        ),
        series(
            "Tensor cores",
            "Share of cycles in which the tensor cores worked: near 0 with FP16 or INT8 engines means that a "
            "graph lost its fusions, or that another engine is served.",
            "percentunit",
            query(f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{_GPU}}}", _WHICH),
            most=1,
        ),
        series(
            "Memory bandwidth",
            "Share of cycles in which DRAM moved data. Generation is bound by it, encoders rarely.",
            "percentunit",
            query(f"DCGM_FI_PROF_DRAM_ACTIVE{{{_GPU}}}", _WHICH),
            most=1,
        ),
        series(
            "PCIe",
            "Bytes to and from the host. Texts and embeddings are small: much traffic is a model on the "
            "wrong side of the bus.",
            "Bps",
            query(f"DCGM_FI_PROF_PCIE_TX_BYTES{{{_GPU}}}", f"{_WHICH} to host"),
            query(f"DCGM_FI_PROF_PCIE_RX_BYTES{{{_GPU}}}", f"{_WHICH} from host"),
        ),
        series(
            "Texts per joule",
            "Texts that the engines computed by the energy that Triton measures: what another precision or "
            "batch size is worth.",
            "none",
            query(
                share(
                    rate("nv_inference_count", f'{_TRITON}, model=~".+_engine"'),
                    rate("nv_energy_consumption", _TRITON),
                ),
                "texts per joule",
            ),
        ),
    )


def _memory() -> tuple[Panel, ...]:
    return (
        series(
            "Frame buffer in use",
            "By DCGM: of all processes on the GPU.",
            "bytes",
            query(f"DCGM_FI_DEV_FB_USED{{{_GPU}}} * 1024 * 1024", _WHICH),
            width=12,
        ),
        series(
            "Memory as Triton sees it",
            "In use, and all there is.",
            "bytes",
            query(f"nv_gpu_memory_used_bytes{{{_TRITON}}}", "{{instance}} {{gpu_uuid}} used"),
            query(f"nv_gpu_memory_total_bytes{{{_TRITON}}}", "{{instance}} {{gpu_uuid}} total"),
            width=12,
        ),
    )


def _power() -> tuple[Panel, ...]:
    return (
        series(
            "Power",
            "Draw, and the limit at which the GPU slows itself down.",
            "watt",
            query(f"DCGM_FI_DEV_POWER_USAGE{{{_GPU}}}", _WHICH),
            query(f"nv_gpu_power_limit{{{_TRITON}}}", "{{instance}} {{gpu_uuid}} limit"),
        ),
        series(
            "Temperature",
            "Of the chip. Most data-centre GPUs slow down in the high eighties.",
            "celsius",
            query(f"DCGM_FI_DEV_GPU_TEMP{{{_GPU}}}", _WHICH),
            levels=levels(80, 88),
        ),
        series(
            "Clock",
            "Of the multiprocessors. A fall under load is heat or power.",
            "rothz",
            query(f"DCGM_FI_DEV_SM_CLOCK{{{_GPU}}} * 1000000", _WHICH),
        ),
        series(
            "Memory errors",
            "Rows of the memory that were remapped for errors. A failed remapping means: replace the card.",
            "none",
            query(f"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{_GPU}}}", f"{_WHICH} uncorrectable"),
            query(f"DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS{{{_GPU}}}", f"{_WHICH} correctable"),
            query(f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{_GPU}}}", f"{_WHICH} failed"),
            levels=levels(1, 1),
        ),
        series(
            "PCIe replays",
            "Transfers that had to be repeated. More than a few an hour: a bad slot, riser or card.",
            "cps",
            query(rate("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", _GPU, by="instance, gpu"), _WHICH),
        ),
        series(
            "Utilisation as Triton sees it",
            "Should agree with DCGM's.",
            "percentunit",
            query(f"nv_gpu_utilization{{{_TRITON}}}", "{{instance}} {{gpu_uuid}}"),
            most=1,
        ),
    )
