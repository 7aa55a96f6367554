"""What a build did: the facts behind every form of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from build_engines.context import StepReport
from tritonforge.errors import TritonForgeError
from tritonforge.recipe import Recipe


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        name: The recipe's name.
        recipe: With all defaults.
        started: When, UTC.
        steps: One entry a step that ran to its end.
        failure: The error that ended the build, if one did.
        machine: Processor, cores, system.
        versions: Of the packages that took part.
    """

    name: str
    recipe: Recipe
    started: datetime
    steps: list[StepReport]
    failure: TritonForgeError | None
    machine: dict[str, str | int]
    versions: dict[str, str]

    def step(self, name: str) -> StepReport | None:
        """The report of one step, None if it did not run."""
        return next((step for step in self.steps if step.step == name), None)

    def figures(self, name: str) -> Mapping[str, Any]:
        """Figures of one step, empty if it did not run."""
        step = self.step(name)
        return step.figures if step else {}

    @property
    def model(self) -> Mapping[str, Any]:
        """What the model is: found in its folder, or once that was imported."""
        return {**self.figures("resolve"), **self.figures("import")}

    @property
    def gate(self) -> Mapping[str, Any]:
        """What the gate said, whichever step it ended: ``chosen``, and ``verdicts`` by candidate."""
        said = [step.figures for step in self.steps if "verdicts" in step.figures]
        return said[-1] if said else {}

    @property
    def seconds(self) -> float:
        """Time of all steps together."""
        return sum(step.seconds for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Everything, in values that JSON knows."""
        return {
            "name": self.name,
            "status": "failed" if self.failure else "ok",
            "failure": self.failure.as_dict() if self.failure else None,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "machine": self.machine,
            "versions": self.versions,
            "recipe": self.recipe.model_dump(mode="json"),
            "steps": [asdict(step) for step in self.steps],
        }
