"""The words that a recipe's values are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Task = Literal["embedding", "classification"]
ServedTask = Literal[Task, "generation"]
Pooling = Literal["mean", "cls", "last"]
Layout = Literal["packed", "padded"]
EngineName = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights", "int4-weights", "fp8"]
GeneratorEngine = Literal["openvino-genai", "tensorrt-llm"]
GeneratorPrecision = Literal["fp32", "fp16", "bf16", "int8-weights", "int4-weights"]
EngineChoice = Literal["auto", EngineName, GeneratorEngine]
PrecisionChoice = Literal["auto", Precision]
RangeMethod = Literal["max", "percentile", "mse", "entropy"]
GpuPreset = Literal["latency", "throughput"]
DeployTarget = Literal["server", "edge"]

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
