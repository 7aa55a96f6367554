"""What the steps of a build share, and what each step reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from build_engines.cache import ArtifactStore, content_key
from build_engines.check.parity import Parity
from build_engines.check.speed import Speed
from build_engines.engines import CompiledEngine
from build_engines.gate.verdict import Verdict
from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec
from build_engines.texts import TextSet
from tritonforge.recipe import Layout, Precision, Recipe

Status = Literal["done", "reused", "skipped", "failed"]
T = TypeVar("T")
C = TypeVar("C", contravariant=True)


@dataclass(frozen=True)
class StepOutcome:
    """What a step tells of itself.

    Attributes:
        reused: The artefact was there already.
        skipped: There was nothing to do.
        figures: What it measured or decided; values fit JSON.
        notes: What a reader should know.
    """

    reused: bool = False
    skipped: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """One step's outcome with what the pipeline knows of it.

    Attributes:
        step: Its name.
        status: ``done``, ``reused``, ``skipped`` where there was nothing to do, or ``failed`` with figures to
            show.
        seconds: How long it took.
        figures: As in :class:`StepOutcome`.
        notes: As in :class:`StepOutcome`.
        repeat: The command that does this step anew.
    """

    step: str
    status: Status
    seconds: float
    figures: dict[str, Any]
    notes: tuple[str, ...]
    repeat: str


@dataclass
class Candidate:
    """One engine in one precision.

    Attributes:
        compiled: Its files.
        asked: Whether the recipe lets it be served; float32 is built beside others as their measure.
        parity: Against the reference on random tokens.
        held_out: Its rows for the held-out texts, float32 [texts, width].
        speed: On the recipe's length mix.
        verdict: What the gate says.
    """

    compiled: CompiledEngine
    asked: bool = True
    parity: Parity | None = None
    held_out: NDArray[np.float32] | None = None
    speed: Speed | None = None
    verdict: Verdict | None = None

    @property
    def part(self) -> str:
        """Tells its artefacts and figures from those of other engines and precisions."""
        return f"{self.compiled.engine}-{self.compiled.precision}"


@dataclass
class BaseContext:
    """What every build has, whatever it makes.

    Attributes:
        recipe: As loaded.
        recipe_path: The file, for the commands in the report.
        repository: The model repository to publish to.
        build_dir: Holds the artefacts and the report.
        rerun: Name of a step whose artefacts are made anew, or None.
        force: Publish even what the gate refuses.
        forced: It did refuse, and is published all the same.
        progress: Called with a line for the user when something slow begins.
        keys: Content key of each artefact, by kind.
    """

    recipe: Recipe
    recipe_path: Path
    repository: Path
    build_dir: Path
    rerun: str | None = None
    force: bool = False
    forced: bool = False
    progress: Callable[[str], None] = lambda message: None
    keys: dict[str, str] = field(default_factory=dict)

    @cached_property
    def store(self) -> ArtifactStore:
        """Artefacts of this recipe."""
        return ArtifactStore(self.build_dir / "artifacts")

    def artifact(
        self, step: str, make: Callable[[Path], None], *, part: str = "", **decides: Any
    ) -> tuple[Path, bool]:
        """Give a step's artefact, made if it is not there, and note its key.

        Args:
            step: Name of the step.
            make: Fills an empty folder.
            part: Tells several artefacts of one step apart, for instance by engine.
            **decides: Everything that decides what comes out; a change of any of it makes it anew.

        Returns:
            The folder, and whether it was there already.
        """
        kind = f"{step}-{part}" if part else step
        key = self.keys[kind] = content_key(**decides)
        self.progress(f"{step} {part}")
        return self.store.get_or_make(kind, key, make, again=self.rerun == step)


@dataclass
class BuildContext(BaseContext):
    """State of an encoder's build; each step fills in what later ones read.

    Attributes:
        texts: Calibration and held-out text, None where the recipe names none.
        pruned: Folder of the pruned weights, None where nothing is pruned.
        reference: The dense float32 model's rows for the held-out texts, float32 [texts, width].
        quantized: The graphs with Q/DQ, by precision.
        candidates: What was compiled, by :attr:`Candidate.part`.
        chosen: What is served.
    """

    files: ModelFiles | None = None
    spec: ModelSpec | None = None
    tokenizer_path: Path | None = None
    texts: TextSet | None = None
    pruned: Path | None = None
    layout: Layout = "packed"
    onnx_path: Path | None = None
    reference: NDArray[np.float32] | None = None
    quantized: dict[Precision, Path] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    chosen: Candidate | None = None

    @property
    def model(self) -> ModelFiles:
        """The checked model files."""
        return made_by(self.files, "resolve")

    @property
    def served_model(self) -> ModelFiles:
        """The model as it is exported: with the pruned weights, where there are any."""
        return replace(self.model, pruned=self.pruned)

    @property
    def settled(self) -> ModelSpec:
        """The settled spec."""
        return made_by(self.spec, "resolve")

    @property
    def exported(self) -> Path:
        """The ONNX file."""
        return made_by(self.onnx_path, "export")

    @property
    def tokenizer(self) -> Path:
        """The ``tokenizer.json`` that is served."""
        return made_by(self.tokenizer_path, "tokenize")

    @property
    def winner(self) -> Candidate:
        """The engine that is served."""
        return made_by(self.chosen, "gate")

    def baseline(self, candidate: Candidate) -> Candidate | None:
        """The same engine's float32, None where it is that itself or there is none."""
        baseline = self.candidates.get(f"{candidate.compiled.engine}-fp32")
        return None if baseline is candidate else baseline


class Step(Protocol[C]):
    """One step of the build, on the kind of context it is for."""

    name: str

    def run(self, context: C) -> StepOutcome:
        """Do the step.

        Raises:
            TritonForgeError: With what to do about it; the repository is then as it was.
        """
        ...


def made_by(value: T | None, step: str) -> T:
    """The value, which an earlier step must have set."""
    if value is None:
        raise RuntimeError(f"step {step!r} has not run")
    return value
