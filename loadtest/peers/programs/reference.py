"""Embeddings of texts by sentence-transformers in float32, one text at a time: what answers are judged by.

::

    python reference.py MODEL TEXTS.json OUTPUT.npy
"""

# It runs in an environment of its own, whose packages mypy does not see.
# mypy: ignore-errors

import json
import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

if __name__ == "__main__":
    folder, texts, output = sys.argv[1:]
    model = SentenceTransformer(folder, device="cpu")
    vectors = model.encode(json.loads(Path(texts).read_text()), batch_size=1)
    np.save(output, vectors.astype(np.float32))
