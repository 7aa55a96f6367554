"""ONNX forms of a sentence-transformers model: float32, and dynamic INT8 by the library's own function.

::

    python quantize.py MODEL avx512_vnni FP32_FOLDER INT8_FOLDER

The INT8 file is ``onnx/model_quantized.onnx``, a name by which infinity finds it too.
"""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

if __name__ == "__main__":
    folder, instructions, fp32, int8 = sys.argv[1:]
    model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(fp32)
    model.save_pretrained(int8)
    export_dynamic_quantized_onnx_model(model, instructions, int8, file_suffix="quantized")
    (Path(int8) / "onnx" / "model.onnx").unlink()
