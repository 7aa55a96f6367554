"""State of the build of a generator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engines.context import BaseContext, made_by
from build_engines.gate.verdict import Verdict
from build_engines.generation.source import GgufFile
from build_engines.generation.spec import GeneratorSpec
from build_engines.model_files import ModelFiles
from tritonforge.recipe import GeneratorEngine, GeneratorPrecision


@dataclass
class GeneratorCandidate:
    """One precision of the engine.

    Attributes:
        engine: Its engine.
        precision: Of its weights.
        folder: Its files: OpenVINO's IR, or the weights for TensorRT-LLM.
        checked: What :mod:`build_engines.generation.steps.check` found, empty where it could not run.
        speed: What :mod:`build_engines.generation.steps.measure` found, likewise.
        verdict: What the gate says.
    """

    engine: GeneratorEngine
    precision: GeneratorPrecision
    folder: Path
    checked: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None

    @property
    def part(self) -> str:
        """Tells its artefacts and figures from those of other precisions."""
        return f"{self.engine}-{self.precision}"


@dataclass
class GenerationContext(BaseContext):
    """State of a generator's build; each step fills in what later ones read.

    Attributes:
        source: The files as they were found.
        files: As safetensors in Hugging Face's layout, which is where a GGUF file ends up too.
        spec: What the model is and how it is used.
        engine: What will serve it.
        tokenizer_folder: Tokenizer and configs as they are served.
        exported: Folder of the float32 IR, None for an engine that takes the weights themselves.
        candidates: What was compressed, by :attr:`GeneratorCandidate.part`.
        chosen: What is served.
    """

    source: ModelFiles | GgufFile | None = None
    files: ModelFiles | None = None
    spec: GeneratorSpec | None = None
    engine: GeneratorEngine = "openvino-genai"
    tokenizer_folder: Path | None = None
    exported: Path | None = None
    candidates: dict[str, GeneratorCandidate] = field(default_factory=dict)
    chosen: GeneratorCandidate | None = None

    @property
    def model(self) -> ModelFiles:
        """The model as safetensors."""
        return made_by(self.files, "import")

    @property
    def settled(self) -> GeneratorSpec:
        """The settled spec."""
        return made_by(self.spec, "import")

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return made_by(self.tokenizer_folder, "tokenize")

    @property
    def winner(self) -> GeneratorCandidate:
        """What is served."""
        return made_by(self.chosen, "gate")
