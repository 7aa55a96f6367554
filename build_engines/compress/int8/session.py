"""Runs a float32 graph in ONNX Runtime over token sequences, batch by batch, for calibration."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from build_engines.check.execute import run_inputs
from build_engines.spec import ModelSpec
from python_backends.packing import flatten, plan_runs, scatter
from python_backends.threads import physical_cores
from tritonforge.errors import CalibrationError
from tritonforge.recipe import Layout

FloatArray = NDArray[np.float32]
Sequences = Sequence[NDArray[np.int32]]

# protobuf's limit is 2 GiB; above this weights are written beside the model.
_EXTERNAL_ABOVE = 1_500_000_000


@dataclass(frozen=True)
class Batches:
    """How sequences become inputs of the graph.

    Attributes:
        spec: Output and padding token.
        layout: Inputs of the graph.
        token_budget: Tokens of one run at most.
    """

    spec: ModelSpec
    layout: Layout
    token_budget: int

    def runs(self, sequences: Sequences) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.int32]]]]:
        """Indices of the sequences of each run, and its inputs."""
        batch = flatten([ids[None] for ids in sequences])
        for run in plan_runs(batch.lengths, self.token_budget, padded=self.layout == "padded"):
            yield run, run_inputs(batch, run, self.layout, self.spec.pad_token_id)


class GraphSession:
    """An ONNX Runtime session on a model in memory; weights beyond protobuf's limit go to a temporary folder.

    Use as a context manager: the temporary files go with it.

    Raises:
        CalibrationError: If ONNX Runtime refuses the graph.
    """

    def __init__(self, model: onnx.ModelProto, batches: Batches, threads: int) -> None:
        """Load."""
        import onnxruntime as ort

        self._batches = batches
        self._folder = tempfile.TemporaryDirectory(prefix="tritonforge-calibrate-")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or physical_cores()
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            source: bytes | str = model.SerializeToString() if model.ByteSize() < _EXTERNAL_ABOVE else ""
            if not source:
                source = str(Path(self._folder.name) / "model.onnx")
                save_model(model, Path(source))
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own, without a common base
            self._folder.cleanup()
            raise CalibrationError(f"ONNX Runtime refuses the graph: {error}") from error
        self._inputs = {value.name for value in self._session.get_inputs()}
        self.output_names = [value.name for value in self._session.get_outputs()]

    def __enter__(self) -> GraphSession:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the session and its files."""
        del self._session
        self._folder.cleanup()

    def each(
        self, sequences: Sequences, extra: Mapping[str, NDArray[Any]] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[np.int32]], dict[str, NDArray[Any]]]]:
        """Indices, inputs and all outputs of each run.

        Args:
            sequences: int32 [n] each.
            extra: Further inputs, the same for all runs.
        """
        for run, inputs in self._batches.runs(sequences):
            feed = {name: array for name, array in inputs.items() if name in self._inputs}
            values = self._session.run(self.output_names, {**feed, **(extra or {})})
            yield run, inputs, dict(zip(self.output_names, values, strict=True))

    def answer(self, sequences: Sequences, extra: Mapping[str, NDArray[Any]] | None = None) -> FloatArray:
        """The model's output for all sequences, float32 [sequences, width]."""
        runs, results = [], []
        name = self._batches.spec.output_name
        for run, _, outputs in self.each(sequences, extra):
            runs.append(run)
            results.append(outputs[name])
        return scatter(runs, results, len(sequences))


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, its weights beside it (``NAME.data``) where protobuf cannot hold them."""
    if model.ByteSize() < _EXTERNAL_ABOVE:
        onnx.save(model, path)
        return
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
        size_threshold=1024,
    )
