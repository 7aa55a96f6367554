"""Windows: the sequences of a packed run laid into rows of one width, so that attention needs no gathers.

A packed run has one token axis, and attention gathers it to a rectangle ``[sequences, longest]`` and back.
Where several short sequences share a row of some 64 slots, and a mask keeps them apart, the token axis *is*
the rectangle ``[rows, width]``. What is paid are the slots that no sequence fills, a few in a hundred; what
is won are the gathers, and that few shapes recur, where each number of tokens was a shape of its own.

This is the packing of Krell et al., "Efficient Sequence Packing without Cross-contamination"
(arXiv:2107.02027), with best-fit decreasing in place of their histogram.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]

WINDOW = 64
"""Slots of a usual row. Wider ones hold what is longer; their attention compares more slots."""

SLOTS = 512
"""Slots of a run, but for one that a single row fills: its activations stay in the processor's cache."""

# A run's rows are cut to a multiple of so many slots, or of this part of their width where that is more.
_GRAIN, _PART = 4, 16


@dataclass(frozen=True, slots=True)
class WindowRun:
    """One run of the engine.

    Attributes:
        rows: Indices of the sequences of each row, in the order in which they lie there.
        width: Slots of each row.
    """

    rows: Sequence[Sequence[int]]
    width: int

    @property
    def slots(self) -> int:
        """Slots that the engine computes."""
        return len(self.rows) * self.width


def plan_windows(lengths: Sequence[int], slots: int = SLOTS, window: int = WINDOW) -> list[WindowRun]:
    """Lay sequences into rows, and rows into runs.

    Best-fit decreasing: from the longest on, each goes to the fullest row that has room. A sequence longer
    than ``window`` opens a row of the next power of two; shorter ones fill up what it leaves.

    Args:
        lengths: Tokens of each sequence, at least 1.
        slots: Slots of a run at most; a wider row makes a run of its own.
        window: Slots of a usual row, a power of two.

    Returns:
        Runs, in which each sequence occurs once.
    """
    rows: dict[int, list[list[int]]] = defaultdict(list)  # by width
    room: list[tuple[int, int, int]] = []  # slots left, and which row has them; ascending
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        place = bisect.bisect_left(room, (length,))
        if place < len(room):
            left, width, row = room.pop(place)
            rows[width][row].append(index)
        else:
            width = max(window, 1 << (length - 1).bit_length())
            left, row = width, len(rows[width])
            rows[width].append([index])
        bisect.insort(room, (left - length, width, row))
    runs = []
    for width, group in rows.items():
        together = max(1, slots // width)
        for start in range(0, len(group), together):
            runs.append(_run(group[start : start + together], width, lengths))
    return runs


def _run(rows: list[list[int]], width: int, lengths: Sequence[int]) -> WindowRun:
    """Cut the rows of a run to what the fullest needs, in steps that let shapes recur."""
    longest = max(sum(lengths[index] for index in row) for row in rows)
    grain = max(_GRAIN, width // _PART)
    return WindowRun(rows, -(-longest // grain) * grain)


def feed_windows(
    run: WindowRun, inputs: Mapping[str, Int32Array]
) -> tuple[dict[str, Int32Array], NDArray[np.int64]]:
    """Build the inputs of one run.

    The slots that are left over make sequences too, of token 0, so that the graph knows but one kind. None is
    longer than the longest of the others: a model may have no more positions.

    Args:
        run: One of :func:`plan_windows`.
        inputs: Of the packed graph: ``input_ids`` INT32 [tokens] and ``cu_seqlens`` INT32 [sequences + 1].

    Returns:
        ``input_ids`` INT32 [rows * width], ``cu_seqlens`` INT32 [with filler + 1], ``max_seqlen`` INT32
        [width]; and which row of the answer each sequence of ``run.rows`` has, in their order.
    """
    tokens, offsets = inputs["input_ids"], inputs["cu_seqlens"].tolist()
    longest = max(offsets[index + 1] - offsets[index] for row in run.rows for index in row)
    ids = np.zeros(run.slots, np.int32)
    ends, answers = [0], []
    for number, row in enumerate(run.rows):
        slot, end = number * run.width, (number + 1) * run.width
        for index in row:
            start, stop = offsets[index], offsets[index + 1]
            ids[slot : slot + stop - start] = tokens[start:stop]
            slot += stop - start
            answers.append(len(ends) - 1)
            ends.append(slot)
        while slot < end:
            slot = min(slot + longest, end)
            ends.append(slot)
    feed = {
        "input_ids": ids,
        "cu_seqlens": np.array(ends, np.int32),
        "max_seqlen": np.zeros(run.width, np.int32),
    }
    return feed, np.array(answers)
