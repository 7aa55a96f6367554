"""From safetensors to ONNX: packed attention, pooling, heads."""
