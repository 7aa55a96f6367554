"""infinity (``infinity_emb``): its own server, with its queue sorted by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from loadtest.peers.system import (
    OPENAI_ANSWER,
    Environment,
    Place,
    Precision,
    Process,
    System,
    Way,
    openai_read,
)

_SHOWN = ("infinity-emb", "sentence-transformers", "transformers", "torch", "optimum", "onnxruntime")
TORCH = Environment("infinity", ("infinity-emb[server,torch]==0.0.78", "torch==2.13.0"), _SHOWN)
# Newer releases of optimum refuse the path that infinity gives them.
ONNX = Environment(
    "infinity-onnx", ("infinity-emb[server,optimum]==0.0.78", "optimum==1.24.0", "torch==2.13.0"), _SHOWN
)


def _system(title: str, engine: Literal["torch", "optimum"], precision: Precision, model: str) -> System:
    name = f"infinity-{'torch' if engine == 'torch' else 'onnx'}-{precision}"

    def processes(place: Place) -> Sequence[Process]:
        port = place.ports["http"]
        command = [str(place.python.with_name("infinity_emb")), "v2", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--model-id", str(place.models / model), "--served-model-name", "m"]
        command += ["--engine", engine, "--device", "cpu", "--batch-size", "64", "--log-level", "warning"]
        command += ["--pooling-method", "mean"]  # of its own accord it takes the first token with ONNX
        if engine == "torch":
            command += ["--dtype", "float32"]
        return [Process(command, f"http://127.0.0.1:{port}/health")]

    way = Way(
        name=name,
        title=title,
        path="/embeddings",
        body=lambda text: {"model": "m", "input": text},
        read=openai_read,
        answer=OPENAI_ANSWER,
    )
    return System(
        name=name,
        title=title,
        precision=precision,
        engine="torch" if engine == "torch" else "ONNX Runtime",
        batching="its own queue, texts of like length together, 64 at most",
        ways=(way,),
        processes=processes,
        model=model,
        environment=TORCH if engine == "torch" else ONNX,
    )


SYSTEMS = (
    _system("infinity, torch", "torch", "fp32", "fp32"),
    _system("infinity, ONNX", "optimum", "fp32", "fp32-onnx"),
    _system("infinity, ONNX dynamic INT8", "optimum", "int8", "int8"),
)
