"""sentence-transformers, loaded as its documentation says, on torch or ONNX; shared by the programs."""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

import os

from sentence_transformers import SentenceTransformer

BATCH = int(os.environ.get("PEER_BATCH", "64"))


def load() -> SentenceTransformer:
    """Load the model in PEER_MODEL for the CPU, with PEER_THREADS threads."""
    folder, threads = os.environ["PEER_MODEL"], int(os.environ["PEER_THREADS"])
    if os.environ["PEER_BACKEND"] == "torch":
        import torch

        torch.set_num_threads(threads)
        return SentenceTransformer(folder, device="cpu")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # its default is the number of physical cores
    return SentenceTransformer(
        folder,
        backend="onnx",
        device="cpu",
        model_kwargs={
            "file_name": os.environ["PEER_FILE"],
            "provider": "CPUExecutionProvider",
            "session_options": options,
        },
    )
