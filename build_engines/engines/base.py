"""The protocol that every engine keeps: compile, load, describe; what is loaded runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from python_backends.runners import Runner
from tritonforge.recipe import EngineName, Layout, Precision


@dataclass(frozen=True)
class CompiledEngine:
    """A model in an engine's own form, on disk.

    Attributes:
        engine: Which engine made it.
        precision: Of the linear layers.
        layout: ``packed`` or ``padded``, which inputs the graph takes.
        folder: Holds all files of the model and nothing else.
        model_file: The file in ``folder`` that the engine loads.
    """

    engine: EngineName
    precision: Precision
    layout: Layout
    folder: Path
    model_file: str

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir())


class Engine(Protocol):
    """One inference engine."""

    name: EngineName

    def compile(self, onnx_path: Path, precision: Precision, folder: Path) -> str:
        """Turn an ONNX file into the engine's own form.

        Args:
            onnx_path: The float32 export.
            precision: ``fp32``, or ``int8`` for dynamic quantization (weights ahead of time,
                activations as they come).
            folder: Empty folder to write to.

        Returns:
            Name of the file to load.

        Raises:
            EngineError: If the engine refuses the model.
        """
        ...

    def load(self, compiled: CompiledEngine, threads: int) -> Runner:
        """Load a compiled model with the runner that will serve it; ``threads`` 0 means all cores."""
        ...

    def describe(self) -> dict[str, str]:
        """Versions, for the report and the cache key."""
        ...
