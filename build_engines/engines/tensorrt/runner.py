"""Runs a plan in this process, for the checks and measurements of a build. Needs a GPU.

In the server Triton's own TensorRT backend runs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.engines.tensorrt.identity import IDENTITY_FILE, PlanIdentity, check
from tritonforge.errors import EngineError

Profiles = Sequence[Mapping[str, Sequence[Sequence[int]]]]


class TensorRtRunner:
    """A plan with an execution context, by polygraphy's ``TrtRunner``.

    Args:
        plan: The plan; its ``identity.json`` lies beside it.

    Raises:
        EngineError: The plan does not fit this machine, or TensorRT does not load it.
    """

    threads = 1  # of the host
    ragged = False
    filler = 0

    def __init__(self, plan: Path) -> None:
        """Load the plan."""
        check(plan.parent)
        self._profiles: Profiles = PlanIdentity.read(plan.parent / IDENTITY_FILE).profiles
        polygraphy: Any = importlib.import_module("polygraphy.backend.trt")
        try:
            self._runner = polygraphy.TrtRunner(polygraphy.EngineFromPath(str(plan)))
            self._runner.activate()
        except Exception as error:  # polygraphy raises a class of its own, CUDA others
            raise EngineError(f"TensorRT cannot load the plan: {error}", where=str(plan)) from error
        self._active = 0

    def run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[Any]]:
        """Run once, or as often as the largest profile asks; see :meth:`python_backends.runners.Runner.run`.

        Triton never forms larger batches; the checks of a build may.

        Raises:
            EngineError: No profile takes the shapes.
        """
        parts = [self._run(part) for part in split_run(inputs, self._profiles)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, inputs: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[Any]]:
        """Run once."""
        names = self._profiles[0]
        feed = {name: np.ascontiguousarray(inputs[name]) for name in names}
        number = choose_profile(self._profiles, {name: array.shape for name, array in feed.items()})
        if number != self._active:
            self._runner.set_profile(number)
            self._active = number
        outputs = self._runner.infer(feed, check_inputs=False)
        # The runner writes the next answer into the same buffers.
        return {name: np.array(array) for name, array in outputs.items()}

    def close(self) -> None:
        """Free the GPU's memory."""
        self._runner.deactivate()


def split_run(
    inputs: Mapping[str, NDArray[np.int32]], profiles: Profiles
) -> Iterator[dict[str, NDArray[np.int32]]]:
    """Divide a run into such as the largest profile takes, in order.

    Args:
        inputs: Of a packed or a padded run.
        profiles: Of the plan.

    Yields:
        Inputs of each part; those given, where they fit.
    """
    largest = {name: max(p[name][2][0] for p in profiles) for name in profiles[0]}
    if "cu_seqlens" not in inputs:
        size = largest["input_ids"]
        for start in range(0, len(inputs["input_ids"]), size):
            yield {name: array[start : start + size] for name, array in inputs.items()}
        return
    ids, offsets = inputs["input_ids"], inputs["cu_seqlens"]
    count, start = len(offsets) - 1, 0
    while start < count:
        within = int(np.searchsorted(offsets, offsets[start] + largest["input_ids"], side="right")) - 1
        stop = max(start + 1, min(within, start + largest["cu_seqlens"] - 1))
        bounds = offsets[start : stop + 1]
        yield {
            "input_ids": ids[bounds[0] : bounds[-1]],
            "cu_seqlens": bounds - bounds[0],
            "max_seqlen": np.zeros(int(np.diff(bounds).max()), np.int32),
        }
        start = stop


def choose_profile(profiles: Profiles, shapes: Mapping[str, Sequence[int]]) -> int:
    """The first profile that takes all shapes.

    Raises:
        EngineError: None does.
    """
    for number, profile in enumerate(profiles):
        if all(
            least <= size <= most
            for name, shape in shapes.items()
            for least, size, most in zip(profile[name][0], shape, profile[name][2], strict=True)
        ):
            return number
    limits = {name: [shapes_[2] for shapes_ in (profile[name] for profile in profiles)] for name in shapes}
    raise EngineError(
        f"no optimization profile takes {dict(shapes)}; largest: {limits}",
        mend="raise tensorrt.max_tokens or batching.max_batch_size",
    )
