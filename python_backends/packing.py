"""Packing: the tokens of many requests become few runs without padding, and the rows go back.

A *sequence* is one text's tokens. A *request* brings a rectangle of them, shorter ones filled up
with ``FILLER``. A *run* is one call of the engine. :func:`flatten` joins the requests,
:func:`plan_runs` decides which sequences run together, :func:`pack` or :func:`pad` builds the
inputs of one run, :func:`scatter` restores the order of the requests.

Everything works on whole arrays: no Python loop touches a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

FILLER = -1
"""What a request's rectangle holds after the end of a shorter text."""

MAX_WASTE = 1.5
SMALL_RUN_TOKENS = 256


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Sequences laid one after another.

    Attributes:
        tokens: INT32 [tokens], without filler.
        offsets: INT32 [sequences + 1]; sequence i is ``tokens[offsets[i]:offsets[i + 1]]``.
        lengths: INT64 [sequences], tokens of each sequence.
    """

    tokens: Int32Array
    offsets: Int32Array
    lengths: IndexArray

    @property
    def count(self) -> int:
        """Number of sequences."""
        return int(self.lengths.size)


def flatten(matrices: Sequence[Int32Array]) -> TokenBatch:
    """Join the id rectangles of several requests into one token axis and drop the filler.

    Args:
        matrices: One INT32 [b, n] per request, ``FILLER`` (or any negative number) where a row has
            no token. At least one.

    Returns:
        The rows of all requests, in order. A row without any token has length 0.
    """
    if len(matrices) == 1:
        flat = matrices[0].reshape(-1)
    else:
        flat = np.concatenate([matrix.reshape(-1) for matrix in matrices])
    widths = np.array([matrix.shape[1] for matrix in matrices], dtype=np.int64)
    lengths = np.repeat(widths, [matrix.shape[0] for matrix in matrices])
    if flat.size and flat.min() < 0:
        present = flat >= 0
        # A running count, not add.reduceat: that one answers wrongly for rows of width 0.
        counted = np.concatenate(([0], np.cumsum(present)))
        ends = np.cumsum(lengths)
        lengths = counted[ends] - counted[ends - lengths]
        flat = flat[present]
    return TokenBatch(flat, _offsets(lengths), lengths)


def plan_runs(
    lengths: IndexArray,
    token_budget: int,
    *,
    max_waste: float = MAX_WASTE,
    small_run_tokens: int = SMALL_RUN_TOKENS,
    padded: bool = False,
    ragged: bool = False,
) -> list[IndexArray]:
    """Divide sequences into runs that keep the token budget and waste little.

    The packed graph computes its linear layers on the token axis and gathers only attention to
    ``[sequences, longest]``; a padded graph computes everything on that rectangle. In both,
    sequences of like length belong together. When all fit one run that wastes little, the order
    is left alone, so that :func:`pack` has nothing to copy.

    Args:
        lengths: Tokens of each sequence, INT64 [sequences].
        token_budget: Most tokens of a run. A longer sequence makes a run of its own.
        max_waste: Most that a run's rectangle ``sequences * longest`` may be, as a multiple of its
            tokens.
        small_run_tokens: Runs below this size may waste more: there, one call more costs more
            than the waste.
        padded: Count the budget in slots of the rectangle instead of tokens.
        ragged: The engine makes no rectangle of the whole run, so that nothing is wasted.

    Returns:
        Index arrays, each sequence in exactly one; none if there is no sequence.
    """
    count = int(lengths.size)
    if count == 0:
        return []
    tokens = int(lengths.sum())
    rectangle = count * int(lengths.max())
    fits = (rectangle if padded else tokens) <= token_budget
    if ragged and not padded:
        max_waste = np.inf
    if count == 1 or (fits and (rectangle <= max_waste * tokens or tokens < small_run_tokens)):
        return [np.arange(count)]

    order = np.argsort(lengths, kind="stable")
    cuts: list[int] = []
    start = tokens = 0
    for position, length in enumerate(lengths[order].tolist()):
        # In ascending order the newcomer is the longest, so it sets the rectangle.
        rectangle = (position - start + 1) * length
        over = (rectangle if padded else tokens + length) > token_budget
        wasteful = tokens >= small_run_tokens and rectangle > max_waste * (tokens + length)
        if position > start and (over or wasteful):
            cuts.append(position)
            start, tokens = position, 0
        tokens += length
    # Back to arrival order inside a run: neighbours then stay slices, and reads run forward.
    return [np.sort(part) for part in np.split(order, cuts)]


def pack(batch: TokenBatch, run: IndexArray) -> dict[str, Int32Array]:
    """Build the inputs of the packed graph for one run.

    Args:
        batch: All sequences.
        run: Indices of the run's sequences, ascending, as :func:`plan_runs` gives them.

    Returns:
        ``input_ids`` INT32 [tokens], ``cu_seqlens`` INT32 [sequences + 1] and ``max_seqlen`` INT32
        [longest] (only its shape counts). Views of ``batch`` where the run is contiguous.
    """
    lengths = batch.lengths[run]
    if run.size == batch.count:
        tokens, offsets = batch.tokens, batch.offsets
    else:
        tokens, offsets = _gather(batch, run, lengths)
    return {
        "input_ids": tokens,
        "cu_seqlens": offsets,
        "max_seqlen": np.zeros(int(lengths.max()), np.int32),
    }


def pad(batch: TokenBatch, run: IndexArray, pad_token_id: int) -> dict[str, Int32Array]:
    """Build the inputs of a padded graph for one run.

    Args:
        batch: All sequences.
        run: Indices of the run's sequences, ascending.
        pad_token_id: Token for the slots after the end of a sequence.

    Returns:
        ``input_ids`` and ``attention_mask``, both INT32 [sequences, longest].
    """
    lengths = batch.lengths[run]
    tokens, _ = _gather(batch, run, lengths)
    present = np.arange(int(lengths.max())) < lengths[:, None]
    input_ids = np.full(present.shape, pad_token_id, np.int32)
    input_ids[present] = tokens
    return {"input_ids": input_ids, "attention_mask": present.astype(np.int32)}


def scatter(runs: Sequence[IndexArray], results: Sequence[FloatArray], count: int) -> FloatArray:
    """Put the rows of several runs back into the order of the requests.

    Args:
        runs: Sequence indices of each run.
        results: FP32 [sequences of the run, width] for each run.
        count: Number of sequences in all; rows in no run stay 0.

    Returns:
        FP32 [count, width]; the result itself, not a copy, if one run holds everything.
    """
    if len(runs) == 1 and runs[0].size == count:
        return results[0]
    rows = np.zeros((count, results[0].shape[1]), results[0].dtype)
    for run, result in zip(runs, results, strict=True):
        rows[run] = result
    return rows


def _gather(batch: TokenBatch, run: IndexArray, lengths: IndexArray) -> tuple[Int32Array, Int32Array]:
    """Tokens and offsets of some sequences; a slice where they are neighbours."""
    offsets = _offsets(lengths)
    first, last = int(run[0]), int(run[-1])
    if last - first + 1 == run.size:
        return batch.tokens[batch.offsets[first] : batch.offsets[last + 1]], offsets
    # Source position of each slot: its own position, moved by how far its sequence moved.
    moved = batch.offsets[run] - offsets[:-1]
    return batch.tokens[np.arange(int(offsets[-1])) + np.repeat(moved, lengths)], offsets


def _offsets(lengths: IndexArray) -> Int32Array:
    """Start of each sequence on the token axis, and the end of the last."""
    offsets = np.zeros(lengths.size + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
