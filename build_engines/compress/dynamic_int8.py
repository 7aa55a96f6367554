"""Dynamic INT8: weights are quantized ahead of time, per output channel; activations as they come.

Symmetric, no calibration data. What it costs in accuracy is measured and written into the build report.
"""

from __future__ import annotations

import logging
from pathlib import Path

from tritonforge.errors import EngineError


def quantize_onnx(source: Path, target: Path) -> None:
    """Quantize the MatMuls with constant weights (``MatMulInteger`` behind ``DynamicQuantizeLinear``).

    Raises:
        EngineError: If ONNX Runtime cannot quantize the graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_no_preprocessing_hint)
    try:
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},
        )
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"cannot be quantized: {error}", where=str(source)) from error
    finally:
        logging.getLogger().removeFilter(_no_preprocessing_hint)


def _no_preprocessing_hint(record: logging.LogRecord) -> bool:
    """Drop ONNX Runtime's advice to pre-process: the exporter's graph is simplified already."""
    return "pre-processing" not in record.getMessage()
