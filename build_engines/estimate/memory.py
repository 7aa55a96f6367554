"""Memory of the processes that serve, and of the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engines.estimate import constants as const
from build_engines.estimate.architecture import Architecture, rest_bytes
from build_engines.estimate.graph import Graph
from build_engines.estimate.workload import Run, Workload
from build_engines.model_files import ModelFiles
from tritonforge.recipe import EngineName, Precision, Recipe, Task


@dataclass(frozen=True)
class Activations:
    """Most that is alive at once, weights not counted.

    Attributes:
        usual_bytes: At the largest run that full batches of the mix make.
        largest_bytes: At the token budget full of the longest texts.
        source: ``graph`` (liveness in the exported ONNX) or ``formula``.
        unsized: Tensors of the graph whose shape is unknown.
    """

    usual_bytes: int
    largest_bytes: int
    source: str
    unsized: int = 0


@dataclass(frozen=True)
class CpuMemory:
    """Resident memory of one server with its stubs, shared pages counted once; bytes.

    Attributes:
        server: tritonserver.
        tokenizer: All tokenizer stubs.
        engine_base: Libraries of all engine stubs.
        weights: Of all engine stubs.
        activations: Of all engine stubs, at usual runs.
        kernel_cache: What the engine keeps for shapes it has seen, once that has levelled off.
        response_cache: Triton's, if the recipe turns it on.
        worst_activations: Added if runs fill the token budget with the longest texts.
    """

    server: int
    tokenizer: int
    engine_base: int
    weights: int
    activations: int
    kernel_cache: int
    response_cache: int
    worst_activations: int

    @property
    def loaded(self) -> int:
        """Right after loading: activations and kernels gather with the requests."""
        return self.total - self.kernel_cache - self.activations

    @property
    def total(self) -> int:
        """After some thousand requests."""
        return (
            self.server
            + self.tokenizer
            + self.engine_base
            + self.weights
            + self.activations
            + self.kernel_cache
            + self.response_cache
        )


@dataclass(frozen=True)
class GpuMemory:
    """Memory on one GPU; bytes.

    Attributes:
        context: CUDA and libraries.
        weights: Once: instances share the engine.
        activations: Of all instances, at the largest profile shape.
        workspace_limit: What tactics may use while the engine is built; not held when serving.
    """

    context: int
    weights: int
    activations: int
    workspace_limit: int

    @property
    def total(self) -> int:
        """While serving."""
        return self.context + self.weights + self.activations


def activations(
    architecture: Architecture,
    workload: Workload,
    graph: Graph | None,
    *,
    float_bytes: int = 4,
    fused_attention: bool = False,
) -> Activations:
    """Peak of the intermediate tensors at the profile's shapes.

    Args:
        architecture: For the formula.
        workload: Shapes.
        graph: The exported ONNX, if there is one.
        float_bytes: Bytes of a floating-point element.
        fused_attention: Scores stay inside a kernel.
    """
    usual, largest = workload.usual_large_run(), workload.largest_run()
    if graph is None:
        found = [
            formula_peak(architecture, run, float_bytes=float_bytes, fused_attention=fused_attention)
            for run in (usual, largest)
        ]
        return Activations(found[0], found[1], "formula")
    costs = [
        graph.cost(run, float_bytes=float_bytes, fused_attention=fused_attention) for run in (usual, largest)
    ]
    return Activations(costs[0].peak_bytes, costs[1].peak_bytes, "graph", costs[0].unsized)


def formula_peak(
    architecture: Architecture, run: Run, *, float_bytes: int = 4, fused_attention: bool = False
) -> int:
    """The same without a graph: the larger of attention and feed-forward, with the residual beside it.

    Attention holds q, k and v on the rectangle (q and k at least, while the scores are made), the scores
    before and after the mask, and the residual; the feed-forward layer its wide activation twice.
    """
    hidden, width = architecture.hidden, architecture.heads * architecture.head_dim
    slots = run.sequences * run.longest
    residual = run.tokens * hidden
    scores = 0 if fused_attention else 2 * architecture.heads * run.cells
    attention = residual + 3 * slots * width + scores
    wide = architecture.intermediate * (3 if architecture.gated else 2)
    feed_forward = residual + run.tokens * wide
    return float_bytes * max(attention, feed_forward)


def cpu_memory(
    recipe: Recipe,
    files: ModelFiles,
    task: Task,
    architecture: Architecture,
    workload: Workload,
    peak: Activations,
    engine: EngineName,
    precision: Precision,
) -> CpuMemory:
    """Memory of one server on the CPU."""
    stubs = recipe.instances.engine
    whole = architecture.weight_bytes(task, precision, rest_bytes(engine))
    rest = rest_bytes(engine) * (architecture.served_parameters(task) - architecture.linear_elements)
    linear = max(0, whole - rest)
    weights = const.LINEAR_COPIES[engine] * linear + const.REST_COPIES[engine] * rest
    kernel_cache = 0.0
    if engine == "openvino":
        shapes = min(const.KERNEL_CACHE_SHAPES, workload.distinct_shapes())
        kernel_cache = const.KERNEL_CACHE_BYTES * shapes
    factor = const.ACTIVATION_FACTOR[engine]
    return CpuMemory(
        server=int(const.TRITONSERVER_BYTES),
        tokenizer=int(recipe.instances.tokenizer * tokenizer_bytes(files.folder / "tokenizer.json")),
        engine_base=int(stubs * const.ENGINE_BASE_BYTES[engine]),
        weights=int(stubs * weights),
        activations=int(stubs * factor * peak.usual_bytes),
        kernel_cache=int(stubs * kernel_cache),
        response_cache=const.CACHE_BYTES if recipe.cache.enabled else 0,
        worst_activations=int(stubs * factor * max(0, peak.largest_bytes - peak.usual_bytes)),
    )


def gpu_memory(
    recipe: Recipe, task: Task, architecture: Architecture, peak: Activations, precision: Precision
) -> GpuMemory:
    """Memory on one GPU."""
    return GpuMemory(
        context=int(const.CUDA_CONTEXT_BYTES),
        weights=architecture.weight_bytes(task, precision, 2),
        activations=recipe.instances.engine * peak.largest_bytes,
        workspace_limit=recipe.tensorrt.workspace_mib << 20,
    )


def tokenizer_bytes(path: Path) -> float:
    """One tokenizer stub."""
    size = path.stat().st_size if path.is_file() else 1_000_000
    return const.TOKENIZER_STUB_BYTES + const.TOKENIZER_JSON_FACTOR * size
