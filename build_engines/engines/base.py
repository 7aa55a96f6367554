"""The protocol that every engine keeps: compile, load, describe; what is loaded runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from build_engines.spec import ModelSpec
from python_backends.runners import Runner
from tritonforge.recipe import EngineName, Layout, Precision, Recipe

FloatPart = Literal["fp32", "bf16"]

FIGURES_FILE = "figures.json"
"""In :attr:`CompileRequest.notes`: what the report should show of the engine, an object of JSON."""


@dataclass(frozen=True)
class CompiledEngine:
    """A model in an engine's own form, on disk.

    Attributes:
        engine: Which engine made it.
        precision: Of the linear layers.
        layout: ``packed`` or ``padded``, which inputs the graph takes.
        folder: Holds all files of the model and nothing else.
        model_file: The file in ``folder`` that the engine loads.
        float_part: Numbers of what is not quantized, ``fp32`` or ``bf16`` (OpenVINO).
    """

    engine: EngineName
    precision: Precision
    layout: Layout
    folder: Path
    model_file: str
    float_part: FloatPart = "fp32"

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir())


@dataclass(frozen=True)
class CompileRequest:
    """What an engine is asked to make.

    Attributes:
        onnx_path: The graph: the float32 export, or for ``int8`` and ``fp8`` the one with Q/DQ, whose
            float part is float32 still.
        precision: Of the linear layers.
        layout: Which inputs the graph takes.
        spec: The model.
        recipe: Batching, threads and the engine's own section.
        folder: Empty; everything written here is served.
        notes: Empty; for what is kept beside the engine and not served (inspector output, logs).
        cache: Lasting folder of the engine, shared by builds (timing caches).
    """

    onnx_path: Path
    precision: Precision
    layout: Layout
    spec: ModelSpec
    recipe: Recipe
    folder: Path
    notes: Path
    cache: Path


class Engine(Protocol):
    """One inference engine.

    Attributes:
        name: As recipes say it.
        precisions: What it can serve, in the order in which ``precision: auto`` tries them.
    """

    name: EngineName
    precisions: tuple[Precision, ...]

    def compile(self, request: CompileRequest) -> str:
        """Turn an ONNX file into the engine's own form.

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
