"""Builds models that generate text: safetensors or GGUF to a version folder of the `generator` backend."""
