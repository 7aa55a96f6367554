"""OpenVINO on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from build_engines.compress.dynamic_int8 import compress_openvino
from build_engines.engines.base import CompiledEngine
from python_backends.runners import OpenVinoRunner, Runner
from tritonforge.errors import EngineError
from tritonforge.recipe import EngineName, Precision


class OpenVinoEngine:
    """Converts to OpenVINO's IR: ``model.xml`` and ``model.bin``."""

    name: EngineName = "openvino"

    def compile(self, onnx_path: Path, precision: Precision, folder: Path) -> str:
        """Convert, and compress weights for int8; see :meth:`~build_engines.engines.base.Engine.compile`."""
        import openvino as ov

        try:
            model = ov.Core().read_model(onnx_path)
            if precision == "int8":
                model = compress_openvino(model)
            ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses the model: {error}", where=str(onnx_path)) from error
        return "model.xml"

    def load(self, compiled: CompiledEngine, threads: int) -> Runner:
        """Compile for this CPU."""
        try:
            return OpenVinoRunner(compiled.folder / compiled.model_file, threads, compiled.precision)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses the model: {error}", where=compiled.model_file) from error

    def describe(self) -> dict[str, str]:
        """Versions of the library and of its compressor."""
        return {"openvino": version("openvino"), "nncf": version("nncf")}
