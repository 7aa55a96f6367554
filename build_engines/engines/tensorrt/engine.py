"""The TensorRT engine: narrow, lint, build, inspect, identify."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from build_engines.engines.base import FIGURES_FILE, CompiledEngine, CompileRequest
from build_engines.engines.tensorrt.builder import BuildOptions, build_plan, inspect_plan
from build_engines.engines.tensorrt.identity import check, identify
from build_engines.engines.tensorrt.module import is_rtx, load_tensorrt
from build_engines.engines.tensorrt.profiles import (
    INPUT_TYPES,
    Profile,
    as_lists,
    check_cuda_graphs,
    make_profiles,
    served_batch_size,
)
from build_engines.engines.tensorrt.runner import TensorRtRunner
from build_engines.engines.tensorrt.timing import TimingCacheFile
from python_backends.runners import Runner
from tritonforge.errors import EngineError
from tritonforge.recipe import EngineName, Precision
from tritonforge.server.plans import Gpu, tensorrt_version, visible_gpus

PLAN_FILE = "model.plan"
GRAPH_FILE = "strongly_typed.onnx"
_FLOAT_PART: dict[Precision, str] = {"bf16": "bf16", "fp16": "fp16", "int8": "fp16", "fp8": "fp16"}
_FP8_SINCE = (8, 9)


class TensorRtEngine:
    """Strongly typed plans for the GPU of this machine, served by Triton's TensorRT backend."""

    name: EngineName = "tensorrt"
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8", "fp8")

    def compile(self, request: CompileRequest) -> str:
        """Build a plan; see :meth:`~build_engines.engines.base.Engine.compile`."""
        trt = load_tensorrt()
        gpus = visible_gpus()
        if not gpus:
            raise EngineError(
                "there is no GPU here, and TensorRT builds for the GPU that it runs on",
                where="engine: tensorrt",
                mend="build where nvidia-smi lists one: docker run --gpus all (docs/tensorrt.md)",
            )
        return self.compile_with(trt, gpus[0], request)

    def compile_with(self, trt: ModuleType, gpu: Gpu, request: CompileRequest) -> str:
        """Build with a module and for a GPU that are given.

        Args:
            trt: TensorRT, or TensorRT for RTX, whose plans are for checks only: Triton cannot load them.
            gpu: The GPU of this machine; with TensorRT for RTX the one that is built for.
            request: As for :meth:`compile`.

        Raises:
            EngineError: From the first part that fails.
        """
        graph, profiles = self.prepare(request, gpu)
        options = BuildOptions.of(request.recipe.tensorrt, (gpu.compute_capability,) if is_rtx(trt) else ())
        timing = TimingCacheFile(request.cache, str(trt.__version__), gpu.name)
        built = build_plan(trt, graph, profiles, options, timing)
        (request.notes / "build.log").write_text(built.log, encoding="utf-8")
        if not is_rtx(trt):
            (request.notes / "inspector.json").write_text(inspect_plan(trt, built.plan), encoding="utf-8")
        (request.folder / PLAN_FILE).write_bytes(built.plan)
        identify(trt, gpu, request.precision, profiles, options).write(request.folder)
        return PLAN_FILE

    def prepare(self, request: CompileRequest, gpu: Gpu) -> tuple[Path, list[Profile]]:
        """Everything that needs no TensorRT: the strongly typed graph, its profiles, and the lint.

        Returns:
            The graph, in ``request.notes``, and the profiles.

        Raises:
            EngineError: The graph would not build; says which nodes, and what mends each.
        """
        # onnx and its kin take most of a second to import, and builds for the CPU never need them
        from build_engines.check.lint import lint, require_clean
        from build_engines.compress.half import to_half

        capability = tuple(int(part) for part in gpu.compute_capability.split("."))
        if request.precision == "fp8" and capability < _FP8_SINCE:
            raise EngineError(
                f"{gpu.name} has no FP8: its compute capability is {gpu.compute_capability}, 8.9 is needed",
                where="precision",
                mend="take int8 or fp16",
            )
        check_cuda_graphs(request.recipe, request.layout)
        graph = request.onnx_path
        half = _FLOAT_PART.get(request.precision)
        if half is not None:
            graph = request.notes / GRAPH_FILE
            to_half(request.onnx_path, graph, "bf16" if half == "bf16" else "fp16")
        profiles = make_profiles(request.recipe, request.spec, request.layout)
        findings = lint(
            graph,
            profiles=profiles,
            triton_inputs=INPUT_TYPES[request.layout],
            max_batch_size=served_batch_size(request.recipe, request.spec),
            profile_indices=[str(number) for number in range(len(profiles))],
        )
        figures = {"lint": [asdict(finding) for finding in findings], "profiles": as_lists(profiles)}
        (request.notes / FIGURES_FILE).write_text(json.dumps(figures, indent=2) + "\n")
        require_clean(findings, where=f"{request.onnx_path} as {request.precision}")
        return graph, profiles

    def load(self, compiled: CompiledEngine, threads: int) -> Runner:
        """Load a plan on the GPU; ``threads`` has no meaning there."""
        load_tensorrt()
        return TensorRtRunner(compiled.folder / compiled.model_file)

    def check(self, compiled: CompiledEngine) -> list[str]:
        """Whether this machine loads the plan; see :func:`build_engines.engines.tensorrt.identity.check`."""
        return check(compiled.folder)

    def describe(self) -> dict[str, str]:
        """Versions and the GPU, on all of which a plan depends."""
        gpus = visible_gpus()
        return {
            "tensorrt": tensorrt_version() or "absent",
            "polygraphy": _version("polygraphy"),
            "gpu": gpus[0].name if gpus else "none",
            "compute_capability": gpus[0].compute_capability if gpus else "none",
        }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
