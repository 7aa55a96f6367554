"""Weight-only compression, INT8 and INT4, where memory or bandwidth counts; no calibration data."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any, Literal

from tritonforge.errors import EngineError

BLOCK = 32
"""Weights that share a scale in INT4; along the input axis."""


def compress_openvino(model: Any, bits: Literal[4, 8]) -> Any:
    """Compress the weights of an ``openvino.Model``, symmetric: INT8 by output channel, INT4 in blocks.

    Every layer is compressed, the first and last as well. Whether activations are then quantized as
    they come is the plug-in's property ``DYNAMIC_QUANTIZATION_GROUP_SIZE``.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_SYM}
    if bits == 4:
        options = {
            "mode": nncf.CompressWeightsMode.INT4_SYM,
            "group_size": BLOCK,
            "ratio": 1.0,
            "all_layers": True,
        }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.compress_weights(model, **options)


def compress_onnx(source: Path, target: Path, bits: Literal[4, 8]) -> None:
    """Store the weights of MatMuls in blocks of 32 (ONNX Runtime's ``MatMulNBits``), symmetric.

    Raises:
        EngineError: If ONNX Runtime cannot compress the graph.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=bits, block_size=BLOCK, is_symmetric=True)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), False)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise EngineError(f"weights cannot be compressed: {error}", where=str(source)) from error
    finally:
        logging.disable(level)
