"""TensorRT engines, for NVIDIA GPUs."""

from build_engines.engines.tensorrt.engine import TensorRtEngine

__all__ = ["TensorRtEngine"]
