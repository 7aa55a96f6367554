"""Holds what a build for ``target: edge`` publishes to the bounds of the recipe's section ``edge``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from build_engines.context import BuildContext
from build_engines.engines.base import CompiledEngine
from build_engines.estimate import constants as const
from build_engines.estimate.architecture import read_architecture
from build_engines.estimate.graph import Graph
from build_engines.estimate.memory import activations, cpu_memory
from build_engines.estimate.workload import Workload
from build_engines.generation.context import GenerationContext
from tritonforge.errors import BuildError
from tritonforge.recipe import Recipe

_MB = 1_000_000
_MIB = 1 << 20


def check_files(recipe: Recipe, folders: Iterable[Path]) -> int:
    """Count the files of the models that are to be published.

    Args:
        recipe: With ``target: edge``.
        folders: Of the staged models, before older versions are put beside the new one.

    Returns:
        Bytes.

    Raises:
        BuildError: If they are more than ``edge.max_model_mb``.
    """
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    if size > recipe.edge.max_model_mb * _MB:
        raise BuildError(
            f"the published files are {size / _MB:.0f} MB, and target edge allows {recipe.edge.max_model_mb}",
            where="edge.max_model_mb",
            mend="take precision int4-weights, prune.sparsity (encoders) or a smaller model; or allow more",
        )
    return size


def check_memory(recipe: Recipe, parts: Mapping[str, int]) -> int:
    """Add up what a server with the model will hold.

    Args:
        recipe: With ``target: edge``.
        parts: Estimated bytes, by what takes them.

    Returns:
        Bytes.

    Raises:
        BuildError: If they are more than ``edge.max_memory_mib``, so that a server which keeps to that limit
            would end its own model.
    """
    total = sum(parts.values())
    if total > recipe.edge.max_memory_mib * _MIB:
        listed = ", ".join(f"{name} {size / _MIB:.0f}" for name, size in parts.items() if size)
        longer = (
            "lower max_length, generation.max_num_seqs or generation.kv_cache_mib"
            if recipe.task == "generation"
            else "lower batching.token_budget or max_length, or say engine: onnxruntime"
        )
        raise BuildError(
            f"a server is estimated to hold {total / _MIB:.0f} MiB, and target edge allows "
            f"{recipe.edge.max_memory_mib}: {listed}",
            where="edge.max_memory_mib",
            mend=f"{longer}; or allow more",
        )
    return total


def encoder_memory(context: BuildContext, compiled: CompiledEngine) -> dict[str, int]:
    """Memory of one server with an encoder, after some thousand requests of the longest kind."""
    recipe, files, spec = context.recipe, context.model, context.settled
    architecture = read_architecture(files)
    workload = Workload.of(recipe, spec.max_length, compiled.layout).on(compiled.engine)
    peak = activations(architecture, workload, Graph(context.exported))
    memory = cpu_memory(
        recipe, files, spec.task, architecture, workload, peak, compiled.engine, compiled.precision
    )
    return {
        "server": memory.server,
        "tokenizer": memory.tokenizer,
        "libraries": memory.engine_base,
        "weights": memory.weights,
        "activations": memory.activations + memory.worst_activations,
        "kernels": memory.kernel_cache,
        "response cache": memory.response_cache,
    }


def generator_memory(context: GenerationContext) -> dict[str, int]:
    """Memory of one server with a generator, its KV cache full."""
    spec = context.settled
    weights = sum(path.stat().st_size for path in context.winner.folder.glob("openvino_model.bin"))
    return {
        "server": int(const.TRITONSERVER_BYTES),
        "libraries and steps": int(const.GENERATOR_BASE_BYTES),
        "weights": int(const.GENERATOR_WEIGHT_COPIES * weights),
        "KV cache": spec.kv_cache_tokens * spec.kv_bytes_per_token,
    }
