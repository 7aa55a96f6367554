"""From rows of the engine's output to the output tensors of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..packing import FloatArray


class Answers(Protocol):
    """Names the outputs of one request."""

    def outputs(self, rows: FloatArray, requested: AbstractSet[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield name and value of each requested output.

        Args:
            rows: FP32 [b, width], the request's rows of the engine's output.
            requested: Output names that the client wants.
        """
        ...


class EmbeddingAnswers:
    """``embedding`` FP32 [b, dim]."""

    def outputs(self, rows: FloatArray, requested: AbstractSet[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the embedding; see :meth:`Answers.outputs`."""
        if "embedding" in requested:
            yield "embedding", rows


class ClassificationAnswers:
    """``label`` STRING [b, 1] (of the best score), ``score`` FP32 [b, 1], ``scores`` FP32 [b, labels].

    Args:
        labels: Name of each class, in the order of the scores.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """Encode the labels once."""
        self._labels = np.array([label.encode() for label in labels], dtype=np.object_)

    def outputs(self, rows: FloatArray, requested: AbstractSet[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the requested ones of label, score and scores; see :meth:`Answers.outputs`."""
        if "label" in requested:
            yield "label", self._labels[rows.argmax(axis=1)][:, None]
        if "score" in requested:
            yield "score", rows.max(axis=1, keepdims=True)
        if "scores" in requested:
            yield "scores", rows


def read_labels(folder: Path, width: int) -> list[str]:
    """Read ``labels.txt``, one label a line, from a version folder or the model folder above it.

    The version's own file wins: a new version may bring other labels.

    Args:
        folder: The version folder.
        width: Number of scores that the model gives.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has not one label for each score.
    """
    candidates = (folder / "labels.txt", folder.parent / "labels.txt")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{candidates[0]} is missing; classification needs one label a line")
    labels = path.read_text(encoding="utf-8").splitlines()
    if len(labels) != width:
        raise ValueError(f"{path} has {len(labels)} labels; the model gives {width} scores")
    return labels
