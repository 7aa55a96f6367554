"""ONNX to a plan, over the module ``trt``: TensorRT 10 or 11, or TensorRT for RTX.

Networks are strongly typed: TensorRT 11 knows no others, and 10 is asked for it. So precision is what the
graph says, and nothing that 11 removed is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from build_engines.engines.tensorrt.logs import BuildLog, recorded
from build_engines.engines.tensorrt.module import is_rtx, major
from build_engines.engines.tensorrt.profiles import Profile
from build_engines.engines.tensorrt.timing import TimingCacheFile
from tritonforge.errors import EngineError
from tritonforge.recipe import TensorRt

if TYPE_CHECKING:
    import tensorrt

_SHOWN = 5


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        optimization_level: 0 to 5.
        hardware_compatibility: ``none``, ``ampere_plus`` or ``same_compute_capability``.
        version_compatible: Whether newer TensorRT shall load the plan too.
        weight_streaming: Whether weights may stay in host memory.
        workspace_bytes: Scratch memory of a layer at most.
        compute_capabilities: ``8.9`` and so on, with TensorRT for RTX only; plain TensorRT builds for the
            GPU that it runs on.
    """

    optimization_level: int = 3
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    weight_streaming: bool = False
    workspace_bytes: int = 4 << 30
    compute_capabilities: tuple[str, ...] = ()

    @classmethod
    def of(cls, section: TensorRt, compute_capabilities: tuple[str, ...] = ()) -> BuildOptions:
        """Read the recipe's section."""
        return cls(
            optimization_level=section.optimization_level,
            hardware_compatibility=section.hardware_compatibility,
            version_compatible=section.version_compatible,
            weight_streaming=section.weight_streaming,
            workspace_bytes=section.workspace_mib << 20,
            compute_capabilities=compute_capabilities,
        )


@dataclass(frozen=True)
class BuiltPlan:
    """What came out.

    Attributes:
        plan: The serialized engine.
        log: All that TensorRT said, with detailed verbosity the final layer table too.
        warnings: Distinct warnings.
        timing_cache_bytes: Size of the cache file afterwards, 0 without one.
    """

    plan: bytes
    log: str
    warnings: tuple[str, ...]
    timing_cache_bytes: int


def build_plan(
    trt: ModuleType,
    onnx_path: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    timing_cache: TimingCacheFile | None = None,
) -> BuiltPlan:
    """Parse and build.

    Args:
        trt: The module to build with.
        onnx_path: Strongly typed: with FP16 or BF16, and Q/DQ where it is quantized.
        profiles: Shapes of every dynamic input.
        options: How.
        timing_cache: Where measurements are kept, if anywhere.

    Raises:
        EngineError: The parser refuses a node (named), a profile does not fit, or the build fails.
    """
    with recorded(trt) as (logger, log):
        builder: tensorrt.Builder = trt.Builder(logger)
        network = builder.create_network(_network_flags(trt))
        parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)  # must live as long as the network
        _parse(parser, onnx_path, log)
        config = builder.create_builder_config()
        _configure(trt, config, options)
        for number, profile in enumerate(profiles):
            _add_profile(builder, config, profile, number)
        if timing_cache is not None:
            timing_cache.attach(config)
        plan: Any = builder.build_serialized_network(network, config)  # a buffer, or None
        if plan is None:
            raise EngineError(
                f"TensorRT {trt.__version__} could not build the engine: {_reasons(log)}",
                where=str(onnx_path),
                mend="within workspace limit: raise tensorrt.workspace_mib; out of memory: lower it, or "
                "tensorrt.max_tokens",
            )
        kept = timing_cache.merge(config) if timing_cache is not None else 0
        warnings = tuple(dict.fromkeys(m.text for m in log.messages if m.severity == "WARNING"))
        return BuiltPlan(bytes(plan), log.text(), warnings, kept)


def inspect_plan(trt: ModuleType, plan: bytes) -> str:
    """The engine inspector's description of all layers, as JSON. Needs a GPU.

    Raises:
        EngineError: The plan cannot be loaded here.
    """
    with recorded(trt) as (logger, log):
        runtime: tensorrt.Runtime = trt.Runtime(logger)
        # Built a moment ago from our own graph: its host code, if it has any, is TensorRT's.
        runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"TensorRT cannot load the plan that it just built: {_reasons(log)}")
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _network_flags(trt: ModuleType) -> int:
    """TensorRT 11 and TensorRT for RTX know strongly typed networks only."""
    if is_rtx(trt) or major(trt) >= 11:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(parser: tensorrt.OnnxParser, onnx_path: Path, log: BuildLog) -> None:
    """Parse by path, so that external weights are found."""
    if parser.parse_from_file(str(onnx_path)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [
        f"{each.node_operator() or 'graph'} node {each.node_name() or '?'}: {each.desc()} ({each.code()})"
        for each in errors[:_SHOWN]
    ]
    more = f" and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    raise EngineError(
        f"TensorRT's parser refuses the graph: {'; '.join(told) or _reasons(log)}{more}", where=str(onnx_path)
    )


def _configure(trt: ModuleType, config: tensorrt.IBuilderConfig, options: BuildOptions) -> None:
    """Set everything but profiles."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and then float32 is not what the recipe asks for
    levels = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "ampere_plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "same_compute_capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    }
    config.hardware_compatibility_level = levels[options.hardware_compatibility]
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if is_rtx(trt):
        _set_compute_capabilities(trt, config, options.compute_capabilities)


def _set_compute_capabilities(trt: ModuleType, config: Any, wanted: Sequence[str]) -> None:
    """Name the GPUs that TensorRT for RTX builds for, ahead of time."""
    known = {f"SM{capability.replace('.', '')}": capability for capability in wanted}
    missing = [capability for name, capability in known.items() if not hasattr(trt.ComputeCapability, name)]
    if missing:
        raise EngineError(
            f"TensorRT for RTX does not build for compute capability {', '.join(missing)}",
            where="compute capability",
            mend="take 8.0 or 8.9: it knows no data-center Hopper or Blackwell",
        )
    config.num_compute_capabilities = len(known)
    for index, name in enumerate(known):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _add_profile(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, profile: Profile, number: int
) -> None:
    """Add one profile; the lint finds what TensorRT ignores (unknown inputs) or meets late (missing ones)."""
    added = builder.create_optimization_profile()
    for name, shapes in profile.items():
        added.set_shape(name, shapes.min, shapes.opt, shapes.max)
    index = config.add_optimization_profile(added)
    if index != number:  # -1: refused
        raise EngineError(f"TensorRT refuses optimization profile {number}: {profile}")


def _reasons(log: BuildLog) -> str:
    """The last errors that TensorRT logged."""
    return "; ".join(log.errors()[-_SHOWN:]) or "it gave no reason"
