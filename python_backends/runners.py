"""Engines behind one small protocol: load a model file, run it on numpy arrays.

The build measures with the same classes that serve, so nothing here knows Triton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .openvino_graph import to_windows
from .settings import EncoderSettings
from .threads import engine_threads, physical_cores
from .windows import SLOTS, WindowRun, feed_windows, plan_windows

Array = NDArray[Any]

# OpenVINO makes the kernels of attention anew for each shape of its rectangle. A longest sequence of which
# only every sixteenth length occurs lets them recur, for a few masked columns more.
_COLUMNS = 16


class Runner(Protocol):
    """A loaded model that answers by name.

    Attributes:
        threads: Threads of one run.
    """

    threads: int

    @property
    def ragged(self) -> bool:
        """Whether sequences of unlike lengths may share a run at no cost."""
        ...

    @property
    def filler(self) -> int:
        """Slots without a token that the last run computed, beside those that its inputs held."""
        ...

    def run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Array]:
        """Run the model once.

        Args:
            inputs: INT32 arrays by input name, C-contiguous. Inputs that the graph does not have
                (an exporter may drop ``max_seqlen``) are left out.

        Returns:
            Arrays by output name. They own their memory: the next run does not change them.
        """
        ...


class RunnerAround:
    """A runner that adds something to another's runs.

    Args:
        runner: The other.
    """

    def __init__(self, runner: Runner) -> None:
        """Wrap a runner."""
        self._runner = runner
        self.threads = runner.threads

    @property
    def ragged(self) -> bool:
        """See :class:`Runner`."""
        return self._runner.ragged

    @property
    def filler(self) -> int:
        """See :class:`Runner`."""
        return self._runner.filler


class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU.

    Args:
        model_path: An ONNX file.
        threads: Threads of one run; 0 for all physical cores.
    """

    ragged = False
    filler = 0

    def __init__(self, model_path: Path, threads: int = 0) -> None:
        """Load the model and optimize its graph."""
        import onnxruntime as ort

        self.threads = threads or physical_cores()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Spinning makes a lone request a tenth to a third faster on an idle machine, and doubles the
        # time of every run as soon as tokenizer and server want the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Memory patterns are planned per input shape, and here every run has another one.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Array]:
        """Run the model once; see :meth:`Runner.run`."""
        feed = {name: inputs[name] for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))


class OpenVinoRunner:
    """OpenVINO on the CPU.

    Args:
        model_path: An OpenVINO ``.xml`` (its ``.bin`` beside it) or an ONNX file.
        threads: Threads of one run; 0 for all physical cores.
        precision: Of the linear layers. ``bf16`` rounds a float32 file as it loads; with
            ``int8-dynamic`` activations of a model with compressed weights are quantized on the fly.
        float_part: Numbers of all else, ``fp32`` or ``bf16``, which CPUs without it compute in float32.
        windows: Lay the sequences of a packed run into windows; see :mod:`python_backends.windows`. A graph
            that is not packed, or an older one, is run as it is.
    """

    def __init__(
        self,
        model_path: Path,
        threads: int = 0,
        precision: str = "fp32",
        float_part: str = "fp32",
        *,
        windows: bool = True,
    ) -> None:
        """Load the model and compile it for this CPU."""
        import openvino as ov

        self.threads = threads or physical_cores()
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            # Pinned threads of several instances would all sit on the same first cores.
            "ENABLE_CPU_PINNING": False,
            # On CPUs with native bfloat16 the default silently computes in it.
            "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in (precision, float_part) else "f32",
            # Kernels are kept per shape, and each token count is a shape of its own. The default of
            # 5000 lets memory grow for hours; 512 still holds those of all short single texts.
            "CPU_RUNTIME_CACHE_CAPACITY": 512,
        }
        # Activations quantized in groups of 128 channels run a sixth faster than in the default of
        # 32, and move the cosine to fp32 by 0.001 (MiniLM); the whole row at once has no fast kernel.
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 128 if precision == "int8-dynamic" else 0
        core = ov.Core()
        model = core.read_model(str(model_path))
        self.ragged = windows and to_windows(model)
        self.filler = 0
        compiled = core.compile_model(model, "CPU", properties)
        self._request = compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = [port.get_any_name() for port in compiled.outputs]

    def run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Array]:
        """Run the model once, or where it takes windows several times; see :meth:`Runner.run`."""
        if self.ragged:
            return self._run_windows(inputs)
        if (longest := inputs.get("max_seqlen")) is not None:
            inputs = {**inputs, "max_seqlen": np.zeros(-(-longest.size // _COLUMNS) * _COLUMNS, np.int32)}
        return {name: rows.copy() for name, rows in self._infer(inputs).items()}

    def _run_windows(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Array]:
        lengths = np.diff(inputs["cu_seqlens"]).tolist()
        runs = self._plan(lengths)
        self.filler = sum(run.slots for run in runs) - sum(lengths)
        answer: dict[str, Array] = {}
        for run in runs:
            feed, rows = feed_windows(run, inputs)
            sequences = [index for row in run.rows for index in row]
            for name, result in self._infer(feed).items():
                if name not in answer:
                    answer[name] = np.empty((len(lengths), *result.shape[1:]), result.dtype)
                answer[name][sequences] = result[rows]
        return answer

    def _plan(self, lengths: Sequence[int]) -> list[WindowRun]:
        """Cut a run into windows: more threads share more slots."""
        return plan_windows(lengths, SLOTS // 2 * max(2, self.threads))

    def _infer(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, Array]:
        """Compute; the next call overwrites the answer."""
        feed = {name: inputs[name] for name in self._inputs}
        results = self._request.infer(feed, share_inputs=True, share_outputs=True)
        return {name: results[name] for name in self._outputs}


def load_runner(settings: EncoderSettings, folder: Path) -> Runner:
    """Load the engine that the settings name.

    Args:
        settings: Settings of the engine model.
        folder: Version folder that holds the model file.

    Raises:
        FileNotFoundError: The model file is not there.
    """
    path = folder / settings.model_file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; rebuild the repository")
    threads = engine_threads(settings.threads, settings.instances)
    if settings.engine == "openvino":
        return OpenVinoRunner(path, threads, settings.precision, settings.float_part)
    return OnnxRuntimeRunner(path, threads)
