"""What serving costs besides the model, measured once; the command that measured stands at each group.

They hold for x86-64 Linux, tritonserver 2.51 and Python 3.11. Where a figure was read off one machine, the
comparison in ``tests/build_engines/estimate/test_prediction.py`` shows how far it carries.
"""

from __future__ import annotations

MB = 1e6

# --- memory, proportional set size; python -m pytest tests/build_engines/estimate/test_prediction.py -s

TRITONSERVER_BYTES = 46 * MB
"""tritonserver itself, after some thousand requests."""

TOKENIZER_STUB_BYTES = 36 * MB
"""A Python stub with numpy and `tokenizers`, without a vocabulary."""

TOKENIZER_JSON_FACTOR = 10.0
"""A vocabulary in memory, over its ``tokenizer.json``."""

# --- memory of an engine's process; python -m build_engines.estimate.process_memory --help

ENGINE_BASE_BYTES = {"openvino": 107 * MB, "onnxruntime": 57 * MB}
"""Python, the engine's libraries, its compiler; without a model."""

LINEAR_COPIES = {"openvino": 2.9, "onnxruntime": 1.1}
"""Copies of the linear layers' weights. OpenVINO keeps the file mapped and repacks per kernel."""

REST_COPIES = {"openvino": 0.6, "onnxruntime": 1.1}
"""Copies of embeddings and norms. OpenVINO maps the tables; only rows that were looked up are resident."""

ACTIVATION_FACTOR = {"openvino": 0.75, "onnxruntime": 1.65}
"""Resident activations over the graph's peak. ONNX Runtime's arena grows in powers of two; OpenVINO fuses."""

KERNEL_CACHE_BYTES = 1.05 * MB
"""OpenVINO's cache, for each distinct token count: kernels of all operators; hardly depends on the model."""

KERNEL_CACHE_SHAPES = 512
"""``CPU_RUNTIME_CACHE_CAPACITY`` of :class:`python_backends.runners.OpenVinoRunner`."""

GENERATOR_BASE_BYTES = 260 * MB
"""Stub of a generator without weights and KV cache: OpenVINO GenAI, the tokenizer as a graph, a step."""

GENERATOR_WEIGHT_COPIES = 2.2
"""Copies of a generator's weights: the file as it is mapped, and repacked for the kernels."""

CACHE_BYTES = 64 * (1 << 20)
"""Triton's response cache, where the recipe turns it on."""

# --- CPU time a text, requests of one text; python -m pytest tests/.../test_prediction.py -s

SERVER_CPU_S = 0.18e-3
"""tritonserver: gRPC, two queues, shared memory."""

STUB_CPU_S = 0.08e-3
"""Tokenizer stub, the tokenizing itself not counted."""

CLIENT_CPU_S = 0.30e-3
"""The asyncio client of `clients`; counts only where it shares the cores."""

SERVING_LATENCY_S = 1.5e-3
"""Network on one host, both steps of the ensemble and the tokenizer, for a lone request."""

# --- GPU: no GPU was at hand; anchored in build_engines/estimate/anchors.py

KERNEL_FLOOR_S = 6e-6
"""Time of the smallest kernel, launch included, without CUDA graphs."""

KERNELS_PER_LAYER = 7
"""Of a padded encoder: merged q/k/v, attention, output, norm, two feed-forward layers, norm."""

PACKED_KERNELS_PER_LAYER = 10
"""The packed graph gathers to a rectangle and back."""

KERNELS_BESIDE = 12
"""Lookup, layout, pooling."""

RUN_OVERHEAD_S = 50e-6
"""Copies of ids and results, and Triton's TensorRT backend, for each run: an assumption."""

CUDA_CONTEXT_BYTES = 500 * MB
"""Driver, cuBLAS and TensorRT libraries on the device: an assumption."""
