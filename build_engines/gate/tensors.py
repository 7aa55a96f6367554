"""Reads safetensors without torch: what is declared, and whether every number is finite.

The tensors are mapped, not loaded, and scanned in pieces, so that a model of any size is checked in
little memory. bfloat16 and float8, which numpy does not know, are tested on their bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 24  # numbers scanned at once

Bits = NDArray[Any]
_Test = Callable[[Bits], NDArray[np.bool_]]


def _float_test(bits: Bits) -> NDArray[np.bool_]:
    """NaN or Inf, for types that numpy knows."""
    return ~np.isfinite(bits)


# Per name in the header: how numpy maps it, and which numbers are not finite. The layouts of the small
# types are those of bfloat16 (8 exponent bits) and of "FP8 Formats for Deep Learning" (Micikevicius et
# al. 2022): E5M2 as IEEE, E4M3 without Inf and with one pattern for NaN.
_FLOATS: dict[str, tuple[str, _Test]] = {
    "F64": ("<f8", _float_test),
    "F32": ("<f4", _float_test),
    "F16": ("<f2", _float_test),
    "BF16": ("<u2", lambda bits: (bits & 0x7F80) == 0x7F80),
    "F8_E5M2": ("u1", lambda bits: (bits & 0x7C) == 0x7C),
    "F8_E4M3": ("u1", lambda bits: (bits & 0x7F) == 0x7F),
}
_INTEGERS = {"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file.

    Attributes:
        name: As in the file.
        dtype: As the format names it, for instance ``F32``.
        shape: Its shape.
        path: The file.
        start: First byte in it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int

    @property
    def is_float(self) -> bool:
        """Whether it holds floating point numbers of a known type."""
        return self.dtype in _FLOATS

    @property
    def is_known(self) -> bool:
        """Whether its type is one of those that the format's users agree on."""
        return self.is_float or self.dtype in _INTEGERS


def read_tensors(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Read the headers of files that were checked to be whole, by name of the tensor.

    The format: 8 bytes with the header's length, little-endian, then JSON, then the data.
    """
    found = {}
    for path in paths:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                start = 8 + size + int(entry["data_offsets"][0])
                found[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), path, start)
    return found


def count_not_finite(tensor: Tensor) -> tuple[int, int]:
    """Count the numbers of a floating point tensor that are NaN or Inf.

    Returns:
        How many, and the flat index of the first (-1 if none).
    """
    dtype, test = _FLOATS[tensor.dtype]
    count, first = 0, -1
    for offset, piece in _pieces(tensor, np.dtype(dtype)):
        bad = test(piece)
        if bad.any():
            first = offset + int(bad.argmax()) if first < 0 else first
            count += int(bad.sum())
    return count, first


def _pieces(tensor: Tensor, dtype: np.dtype[Any]) -> Iterator[tuple[int, Bits]]:
    """The numbers of a tensor, mapped piece by piece, each with the index of its first."""
    total = math.prod(tensor.shape)
    for offset in range(0, total, _PIECE):
        size = min(_PIECE, total - offset)
        # A new map for each piece: one over the whole file would count as memory until it is gone.
        yield (
            offset,
            np.memmap(
                tensor.path, dtype, mode="r", offset=tensor.start + offset * dtype.itemsize, shape=(size,)
            ),
        )
