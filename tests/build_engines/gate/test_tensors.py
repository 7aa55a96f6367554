"""Reading of safetensors, against files that the library itself wrote."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from build_engines.gate import tensors as module
from build_engines.gate.tensors import count_not_finite, read_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
]


def test_what_is_declared(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.zeros(3, 5), "b": torch.zeros(2, dtype=torch.int64)}, path, {"format": "pt"})
    found = read_tensors([path])
    assert {(t.name, t.dtype, t.shape, t.is_float) for t in found.values()} == {
        ("a.weight", "F32", (3, 5), True),
        ("b", "I64", (2,), False),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_pattern_is_told_as_torch_tells_it(tmp_path: Path, dtype: torch.dtype) -> None:
    """All 256 or 65,536 numbers of the small types; of the large ones, some."""
    if dtype.itemsize <= 2:
        bits = torch.arange(1 << (8 * dtype.itemsize), dtype=torch.int32)
        values = bits.to(torch.uint8 if dtype.itemsize == 1 else torch.uint16).view(dtype)
    else:
        values = torch.tensor([0.0, math.nan, 1.0, math.inf, -math.inf, 1e-310, -2.0], dtype=dtype)
    path = tmp_path / "model.safetensors"
    # Before it a tensor of one byte, so that the numbers lie at an odd place.
    save_file({"a": torch.zeros(1, dtype=torch.uint8), "b": values}, path)
    finite = torch.isfinite(values.to(torch.float64))
    count, first = count_not_finite(read_tensors([path])["b"])
    assert count == int((~finite).sum()) > 0
    assert first == int((~finite).nonzero()[0])


def test_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.ones(7, 11)
    values[5, 2] = values[6, 10] = math.nan
    path = tmp_path / "model.safetensors"
    save_file({"a": values, "empty": torch.zeros(0, 4), "lone": torch.tensor(math.inf)}, path)
    monkeypatch.setattr(module, "_PIECE", 10)
    found = read_tensors([path])
    assert count_not_finite(found["a"]) == (2, 57)
    assert count_not_finite(found["empty"]) == (0, -1)
    assert count_not_finite(found["lone"]) == (1, 0)
