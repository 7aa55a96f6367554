"""What the servers that run sentence-transformers have in common."""

from __future__ import annotations

from loadtest.peers.system import PROGRAMS, Environment, Place, Precision, Way

BATCH = 64  # as many texts as ours takes into a batch
BACKEND = {"fp32": "torch", "int8": "ONNX dynamic INT8"}
ENGINE = {"fp32": "torch", "int8": "ONNX Runtime"}
QUANTIZED = "onnx/model_quantized.onnx"

# sentence-transformers 6 needs transformers 5, and optimum-onnx, which its `onnx` extra brings, needs 4.
NEWEST, WITH_ONNX = "sentence-transformers==6.2.0", "sentence-transformers[onnx]==5.7.0"
_SHOWN = ("sentence-transformers", "transformers", "torch", "optimum-onnx", "onnxruntime")


def environment(name: str, *requirements: str, library: str = WITH_ONNX) -> Environment:
    """The library, torch for the CPU, and a server's packages."""
    servers = tuple(requirement.partition("==")[0].partition("[")[0] for requirement in requirements)
    return Environment(name, (library, "torch==2.13.0", *requirements), (*servers, *_SHOWN))


def variables(place: Place, precision: Precision, threads: int | None = None) -> dict[str, str]:
    """What ``programs/embedder.py`` reads; ``threads`` where a worker has fewer than the place."""
    return {
        "PEER_MODEL": str(place.models / precision),
        "PEER_BACKEND": "torch" if precision == "fp32" else "onnx",
        "PEER_FILE": QUANTIZED,
        "PEER_THREADS": str(threads or place.threads),
        "PEER_BATCH": str(BATCH),
        "PEER_PORT": str(place.ports["http"]),
        "PYTHONPATH": str(PROGRAMS),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def plain_way(name: str, title: str, path: str) -> Way:
    """A route of our programs: ``{"text": …}`` to ``{"embedding": […]}``."""
    return Way(
        name=name,
        title=title,
        path=path,
        body=lambda text: {"text": text},
        read=lambda answer: answer["embedding"],
        answer="JSON: the numbers alone",
    )
