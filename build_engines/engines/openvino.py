"""OpenVINO on the CPU."""

from __future__ import annotations

from importlib.metadata import version

from build_engines.compress.weights import compress_openvino
from build_engines.engines.base import CompiledEngine, CompileRequest
from python_backends.runners import OpenVinoRunner, Runner
from tritonforge.errors import EngineError
from tritonforge.recipe import EngineName, Precision


class OpenVinoEngine:
    """Converts to OpenVINO's IR: ``model.xml`` and ``model.bin``."""

    name: EngineName = "openvino"
    precisions: tuple[Precision, ...] = (
        "fp32",
        "bf16",
        "int8",
        "int8-dynamic",
        "int8-weights",
        "int4-weights",
    )

    def compile(self, request: CompileRequest) -> str:
        """Convert, and compress weights; see :meth:`~build_engines.engines.base.Engine.compile`.

        ``bf16`` is the float32 file, which the plug-in rounds as it loads; ``int8-dynamic`` and
        ``int8-weights`` differ in how it runs them.
        """
        import openvino as ov

        try:
            model = ov.Core().read_model(request.onnx_path)
            if request.precision in {"int8-dynamic", "int8-weights", "int4-weights"}:
                model = compress_openvino(model, bits=4 if request.precision == "int4-weights" else 8)
            ov.save_model(model, request.folder / "model.xml", compress_to_fp16=False)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses the model: {error}", where=str(request.onnx_path)) from error
        return "model.xml"

    def load(self, compiled: CompiledEngine, threads: int) -> Runner:
        """Compile for this CPU."""
        try:
            return OpenVinoRunner(
                compiled.folder / compiled.model_file, threads, compiled.precision, compiled.float_part
            )
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses the model: {error}", where=compiled.model_file) from error

    def describe(self) -> dict[str, str]:
        """Versions of the library and of its compressor."""
        return {"openvino": version("openvino"), "nncf": version("nncf")}
