"""The two number formats that linear layers are quantized to: INT8 and FP8 (E4M3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
NumberName = Literal["int8", "fp8"]


@dataclass(frozen=True)
class Number:
    """A symmetric 8-bit format: a value v is kept as ``grid(v / scale) * scale``.

    Attributes:
        name: ``int8`` or ``fp8``.
        limit: Largest magnitude of the grid; a range r has the scale ``r / limit``.
        onnx_type: Element type of the quantized tensors.
    """

    name: NumberName
    limit: float
    onnx_type: int

    def grid(self, values: FloatArray) -> FloatArray:
        """Nearest values of the grid (ties to even), saturated at the limit.

        INT8 stays within -127..127: symmetric, as TensorRT's own weights are.
        """
        if self.name == "int8":
            rounded: FloatArray = np.clip(np.rint(values), -self.limit, self.limit)
            return rounded
        clipped = np.clip(values, -self.limit, self.limit)
        found: FloatArray = clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        return found

    def fake(self, values: FloatArray, scale: Any) -> FloatArray:
        """Quantize and dequantize; ``scale`` is a number, or an array that broadcasts."""
        found: FloatArray = (self.grid(values / scale) * scale).astype(np.float32)
        return found

    def stored(self, values: FloatArray, scale: Any) -> NDArray[Any]:
        """Quantized values in the type that the file holds."""
        kind = np.int8 if self.name == "int8" else ml_dtypes.float8_e4m3fn
        return self.grid(values / scale).astype(kind)


NUMBERS: dict[NumberName, Number] = {
    "int8": Number("int8", 127.0, onnx.TensorProto.INT8),
    "fp8": Number("fp8", 448.0, onnx.TensorProto.FLOAT8E4M3FN),
}
