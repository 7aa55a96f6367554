"""Deployments for tests: one model, several, with a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.deployment import Deployment, Resources, ServedModel, Source

GIB = 1 << 30
SHA256 = "0123456789abcdef" * 4

CPU_SERVER = Resources(cpu=2, memory_bytes=2 * GIB, shm_bytes=GIB // 8, gpus=0)
GPU_SERVER = Resources(cpu=4, memory_bytes=8 * GIB, shm_bytes=GIB // 4, gpus=1)


def encoder(name: str = "minilm", **changes: Any) -> ServedModel:
    """An embedding model on a CPU."""
    model = ServedModel(
        name=name,
        task="embedding",
        engine="openvino",
        gpu=False,
        parts=(name, f"{name}_engine", f"{name}_tokenizer"),
        recipe=Path(f"recipes/{name}.yaml"),
        memory_bytes=GIB,
        disk_bytes=90_000_000,
        alone=CPU_SERVER,
        replicas=2,
    )
    return replace(model, **changes)


def generator(name: str = "smollm2") -> ServedModel:
    """A model that writes text, on a CPU."""
    return encoder(name, task="generation", engine="openvino-genai", parts=(name,), replicas=1)


def on_gpu(name: str = "large") -> ServedModel:
    """An embedding model by TensorRT."""
    parts = (name, f"{name}_fanout", f"{name}_engine", f"{name}_tokenizer")
    return encoder(name, engine="tensorrt", gpu=True, parts=parts, alone=GPU_SERVER)


def deployment(*models: ServedModel, **changes: Any) -> Deployment:
    """A deployment of them; one encoder if none is named."""
    models = models or (encoder(),)
    gpu = any(model.gpu for model in models)
    found = Deployment(
        name=models[0].label if len(models) == 1 else "tritonforge",
        models=models,
        resources=GPU_SERVER if gpu else CPU_SERVER,
        replicas=2,
        max_replicas=6,
        engine_threads=2,
        source=Source("url", "s3://models.example.com/minilm-1.tar", SHA256),
        server_image=f"registry.example.com/tritonforge:0.1.0-{'gpu' if gpu else 'cpu'}",
        gateway_image="registry.example.com/tritonforge:0.1.0-gateway",
        version="0.1.0",
    )
    return replace(found, **changes)
