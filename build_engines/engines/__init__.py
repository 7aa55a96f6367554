"""Engines behind one small protocol, a file each."""

from build_engines.engines.base import CompiledEngine, CompileRequest, Engine
from build_engines.engines.onnxruntime import OnnxRuntimeEngine
from build_engines.engines.openvino import OpenVinoEngine
from build_engines.engines.tensorrt import TensorRtEngine
from tritonforge.recipe import EngineName

ENGINES: dict[EngineName, Engine] = {
    "onnxruntime": OnnxRuntimeEngine(),
    "openvino": OpenVinoEngine(),
    "tensorrt": TensorRtEngine(),
}

__all__ = ["ENGINES", "CompileRequest", "CompiledEngine", "Engine"]
