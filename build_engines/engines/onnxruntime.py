"""ONNX Runtime on the CPU."""

from __future__ import annotations

import shutil
from importlib.metadata import version

from build_engines.compress.dynamic_int8 import quantize_onnx
from build_engines.compress.weights import compress_onnx
from build_engines.engines.base import CompiledEngine, CompileRequest
from python_backends.runners import OnnxRuntimeRunner, Runner
from tritonforge.errors import EngineError
from tritonforge.recipe import EngineName, Precision


class OnnxRuntimeEngine:
    """Takes ONNX as it is, with or without Q/DQ; the session optimizes the graph as it loads."""

    name: EngineName = "onnxruntime"
    precisions: tuple[Precision, ...] = ("fp32", "int8", "int8-dynamic", "int8-weights", "int4-weights")

    def compile(self, request: CompileRequest) -> str:
        """Copy the graph, or compress its weights; see :meth:`~build_engines.engines.base.Engine.compile`."""
        source, target = request.onnx_path, request.folder / "model.onnx"
        if request.precision == "int8-dynamic":
            quantize_onnx(source, target)
        elif request.precision in {"int8-weights", "int4-weights"}:
            compress_onnx(source, target, bits=8 if request.precision == "int8-weights" else 4)
        else:
            shutil.copy2(source, target)
            external = source.with_name(source.name + ".data")
            if external.exists():  # weights beyond protobuf's 2 GB
                shutil.copy2(external, request.folder / external.name)
        return target.name

    def load(self, compiled: CompiledEngine, threads: int) -> Runner:
        """Open a session."""
        try:
            return OnnxRuntimeRunner(compiled.folder / compiled.model_file, threads)
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            raise EngineError(
                f"ONNX Runtime refuses the model: {error}", where=compiled.model_file
            ) from error

    def describe(self) -> dict[str, str]:
        """Version of the library."""
        return {"onnxruntime": version("onnxruntime")}
