"""One pass of the calibration text through the float32 graph: what each linear layer's input looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from build_engines.compress.int8.graph import Graph
from build_engines.compress.int8.histogram import ChannelHistogram, RowSample
from build_engines.compress.int8.session import Batches, GraphSession, Sequences
from tritonforge.errors import CalibrationError

# Bounds what the observed tensors of one run may take, bytes.
_RUN_BYTES = 256 << 20
# Bounds what all histograms together may take, bytes.
_HISTOGRAM_BYTES = 1 << 30


@dataclass(frozen=True)
class Observation:
    """What was seen of one tensor.

    Attributes:
        histogram: Of the magnitudes of ``x - centre``, by channel.
        sample: Rows of ``x - centre``, float32 [rows, channels], drawn so that each text weighs the same.
        rows_per_token: 1 for layers on tokens; far below for layers on whole sequences.
        per_sequence: Whether it has one row a sequence.
        centre: float32 [channels], or None for zeros.
    """

    histogram: ChannelHistogram
    sample: NDArray[np.float32]
    rows_per_token: float
    per_sequence: bool
    centre: NDArray[np.float32] | None = None


def observe(
    graph: Graph,
    tensors: Sequence[tuple[str, int]],
    sequences: Sequences,
    batches: Batches,
    *,
    rows: int,
    seed: int,
    threads: int,
    centres: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, Observation]:
    """Run the graph with the tensors as further outputs.

    Args:
        graph: In float32.
        tensors: Name and channels (last axis) of each; 1 takes all values of a tensor as one channel.
        sequences: int32 [n] each.
        batches: Layout and budget; runs are made smaller where the observed tensors would be too large.
        rows: Rows to sample of each tensor.
        seed: Of the samples.
        threads: Of ONNX Runtime; 0: all cores.
        centres: float32 [channels] to subtract, for some or all tensors.

    Raises:
        CalibrationError: If the model gives NaN or Inf on the calibration text.
    """
    centres = centres or {}
    channels = sum(count for _, count in tensors)
    budget = max(256, min(batches.token_budget, _RUN_BYTES // max(4 * channels, 1)))
    bins = 512
    while bins > 64 and channels * bins * 8 > _HISTOGRAM_BYTES:
        bins //= 2
    histograms = {name: ChannelHistogram(count, bins) for name, count in tensors}
    samples = {name: RowSample(rows, seed) for name, _ in tensors}
    per_sequence = dict.fromkeys(histograms, True)
    model = with_outputs(graph.model, list(histograms))
    tokens = 0
    with GraphSession(model, Batches(batches.spec, batches.layout, budget), threads) as session:
        for run, inputs, outputs in session.each(sequences):
            mask = inputs["attention_mask"].reshape(-1) != 0 if "attention_mask" in inputs else None
            lengths = (
                mask.reshape(len(run), -1).sum(axis=1) if mask is not None else np.diff(inputs["cu_seqlens"])
            )
            # Each text weighs the same in the samples, however long it is: so does it in the result.
            shares = np.repeat(1.0 / lengths, lengths)
            tokens += len(shares)
            for name, histogram in histograms.items():
                values = outputs[name].reshape(-1, len(histogram.limits))
                per_sequence[name] &= len(values) == len(run)
                if mask is not None and len(values) == len(mask):
                    values = values[mask]  # what padding tokens bring is no text
                if name in centres:
                    values = values - centres[name]
                try:
                    histogram.update(values)
                except ValueError as error:
                    raise CalibrationError(
                        f"{error} in float32: the model's weights or the calibration text are broken",
                        where=name,
                        mend="check the weights for NaN and Inf",
                    ) from error
                samples[name].update(values, shares if len(values) == len(shares) else np.ones(len(values)))
    return {
        name: Observation(
            histogram=histogram,
            sample=samples[name].rows,
            rows_per_token=histogram.rows / max(tokens, 1),
            per_sequence=per_sequence[name] and histogram.rows < tokens,
            centre=centres.get(name),
        )
        for name, histogram in histograms.items()
    }


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model with further float32 outputs; weights are shared only until it is changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy
