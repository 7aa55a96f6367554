"""From a request's rectangle of token ids to its rows, and back from the engine's rows. Knows no Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..packing import FILLER, FloatArray, Int32Array, flatten
from ..settings import FanoutSettings


class InvalidRequestError(ValueError):
    """A request that the engine must not see; the message is for its sender."""


class EngineAnswerError(RuntimeError):
    """The engine answered with something else than one row."""


def split(matrix: NDArray[Any], settings: FanoutSettings) -> list[Int32Array]:
    """Cut a request into its rows, without filler.

    Args:
        matrix: INT32 [b, n], filler (any negative number) after the end of shorter texts.
        settings: Limits of the model.

    Returns:
        INT32 [1, length] for each row, C-contiguous.

    Raises:
        InvalidRequestError: A row is empty, too long, or holds an id beyond the vocabulary.
    """
    if matrix.ndim != 2 or matrix.dtype != np.int32 or matrix.size == 0:
        shape = f"{matrix.dtype} {list(matrix.shape)}"
        raise InvalidRequestError(f"input_ids is {shape}; send int32 [b, n]")
    batch = flatten([matrix])
    if not batch.lengths.all():
        row = int(np.flatnonzero(batch.lengths == 0)[0])
        raise InvalidRequestError(f"row {row} of input_ids holds no token, only filler ({FILLER})")
    longest = int(batch.lengths.max())
    if longest > settings.max_length:
        raise InvalidRequestError(f"a sequence has {longest} tokens; the model takes {settings.max_length}")
    largest = int(batch.tokens.max())
    if largest >= settings.vocab_size:
        raise InvalidRequestError(
            f"input_ids holds {largest}; the vocabulary ends at {settings.vocab_size - 1}"
        )
    return [ids[None] for ids in np.split(batch.tokens, batch.offsets[1:-1])]


def join(rows: Sequence[NDArray[Any]], width: int) -> FloatArray:
    """Stack the engine's answers to the rows of one request, in order.

    Args:
        rows: FP32 [1, width] for each row.
        width: Columns that each must have.

    Returns:
        FP32 [b, width].

    Raises:
        EngineAnswerError: An answer has another shape or type.
    """
    for row in rows:
        if row.shape != (1, width) or row.dtype != np.float32:
            raise EngineAnswerError(
                f"the engine answered one row with {row.dtype} {list(row.shape)}; float32 [1, {width}] was "
                "expected"
            )
    return np.concatenate(rows)
