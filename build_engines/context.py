"""What the steps of a build share, and what each step reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from build_engines.cache import ArtifactStore, content_key
from build_engines.check.parity import Parity
from build_engines.check.speed import Speed
from build_engines.engines import CompiledEngine
from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec
from tritonforge.recipe import EngineName, Layout, Recipe

Status = Literal["done", "reused"]
T = TypeVar("T")


@dataclass(frozen=True)
class StepOutcome:
    """What a step tells of itself.

    Attributes:
        reused: The artefact was there already.
        figures: What it measured or decided; values fit JSON.
        notes: What a reader should know.
    """

    reused: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """One step's outcome with what the pipeline knows of it.

    Attributes:
        step: Its name.
        status: ``done`` or ``reused``.
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
    """One engine that was tried."""

    compiled: CompiledEngine
    parity: Parity | None = None
    speed: Speed | None = None

    @property
    def part(self) -> str:
        """Tells its artefacts from those of other engines and precisions."""
        return f"{self.compiled.engine}-{self.compiled.precision}"


@dataclass
class BuildContext:
    """State of one build; each step fills in what later ones read.

    Attributes:
        recipe: As loaded.
        recipe_path: The file, for the commands in the report.
        repository: The model repository to publish to.
        build_dir: Holds the artefacts and the report.
        rerun: Name of a step whose artefacts are made anew, or None.
        progress: Called with a line for the user when something slow begins.
        keys: Content key of each artefact, by kind.
    """

    recipe: Recipe
    recipe_path: Path
    repository: Path
    build_dir: Path
    rerun: str | None = None
    progress: Callable[[str], None] = lambda message: None

    files: ModelFiles | None = None
    spec: ModelSpec | None = None
    layout: Layout = "packed"
    onnx_path: Path | None = None
    candidates: dict[EngineName, Candidate] = field(default_factory=dict)
    chosen: Candidate | None = None
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

    @property
    def model(self) -> ModelFiles:
        """The checked model files."""
        return _set(self.files, "resolve")

    @property
    def settled(self) -> ModelSpec:
        """The settled spec."""
        return _set(self.spec, "resolve")

    @property
    def exported(self) -> Path:
        """The ONNX file."""
        return _set(self.onnx_path, "export")

    @property
    def winner(self) -> Candidate:
        """The engine that is served."""
        return _set(self.chosen, "measure")


class Step(Protocol):
    """One step of the build."""

    name: str

    def run(self, context: BuildContext) -> StepOutcome:
        """Do the step.

        Raises:
            TritonForgeError: With what to do about it; the repository is then as it was.
        """
        ...


def _set(value: T | None, step: str) -> T:
    """The value, which an earlier step must have set."""
    if value is None:
        raise RuntimeError(f"step {step!r} has not run")
    return value
