"""A model with the interface of a real embedding or classification ensemble, and faults on demand.

The numbers are a pure function of the text's bytes, so that a test can compute them itself. A text
that begins with ``!`` is an order (used by one request at a time):

``!unavailable K ID``  answer UNAVAILABLE to the first K requests that carry this ID
``!until PATH``        write PATH.begun, then take until there is a file PATH
``!invalid``           answer INVALID_ARG
``!internal``          answer INTERNAL
"""

import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

LABELS = ("ham", "spam")
DIM = 8


def embed(text: bytes) -> np.ndarray:
    digest = hashlib.sha256(text).digest()
    return np.frombuffer(digest, dtype=np.uint32).astype(np.float32) / np.float32(2**32)


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.embedding = any(output["name"] == "embedding" for output in config["output"])
        self.refused = Counter()

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        for text in texts:
            if text.startswith(b"!") and (error := self.obey(text.decode().split())):
                return pb_utils.InferenceResponse(error=error)
        vectors = np.stack([embed(text) for text in texts])
        if self.embedding:
            return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors)])
        scores = vectors[:, :2] / vectors[:, :2].sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        label = np.array([LABELS[i].encode() for i in best], dtype=object).reshape(-1, 1)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("label", label),
                pb_utils.Tensor("score", scores.max(axis=1, keepdims=True)),
                pb_utils.Tensor("scores", scores),
            ]
        )

    def obey(self, order):
        if order[0] == "!unavailable":
            times, name = int(order[1]), order[2]
            if self.refused[name] < times:
                self.refused[name] += 1
                return pb_utils.TritonError("asked to be unavailable", pb_utils.TritonError.UNAVAILABLE)
        elif order[0] == "!until":
            Path(f"{order[1]}.begun").touch()
            while not Path(order[1]).exists():
                time.sleep(0.01)
        elif order[0] == "!invalid":
            return pb_utils.TritonError("asked to be invalid", pb_utils.TritonError.INVALID_ARG)
        elif order[0] == "!internal":
            return pb_utils.TritonError("asked to fail", pb_utils.TritonError.INTERNAL)
        return None
