"""ONNX Runtime on the CPU."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from build_engines.compress.dynamic_int8 import quantize_onnx
from build_engines.engines.base import CompiledEngine
from python_backends.runners import OnnxRuntimeRunner, Runner
from tritonforge.errors import EngineError
from tritonforge.recipe import EngineName, Precision


class OnnxRuntimeEngine:
    """Keeps the ONNX file as it is; the session optimizes the graph as it loads."""

    name: EngineName = "onnxruntime"

    def compile(self, onnx_path: Path, precision: Precision, folder: Path) -> str:
        """Copy the export, or quantize it; see :meth:`~build_engines.engines.base.Engine.compile`."""
        target = folder / "model.onnx"
        if precision == "int8":
            quantize_onnx(onnx_path, target)
            return target.name
        shutil.copy2(onnx_path, target)
        external = onnx_path.with_name(onnx_path.name + ".data")
        if external.exists():  # weights beyond protobuf's 2 GB
            shutil.copy2(external, folder / external.name)
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
