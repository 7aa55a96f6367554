"""What a search leaves behind: ``trials.json``, complete after each trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loadtest.tune.goal import Look
from tritonforge.files import replace_text

Status = Literal["measured", "pruned", "failed"]
Stage = Literal["search", "run-off"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Trial(_Record):
    """One setting on one server.

    Attributes:
        number: In order; the first is the default.
        stage: The search, or the run-off of its best.
        settings: Values by the recipe's keys.
        status: ``pruned`` after a first look, ``failed`` where it could not be served or loaded.
        looks: What was measured, by level.
        score: What that came to, in the goal's unit; None unless measured.
        violation: By which share its best p99 exceeds the SLO; 0: met.
        ratio: ``score`` to what the default would have come to at that moment.
        at: When it was measured, seconds from the start of the search.
        seconds: What it took, the server's start included.
        error: Why it failed.
    """

    number: int
    stage: Stage = "search"
    settings: dict[str, Any]
    status: Status
    looks: list[Look] = Field(default_factory=list)
    score: float | None = None
    violation: float = 0.0
    ratio: float | None = None
    at: float
    seconds: float
    error: str | None = None


class AnchorRecord(_Record):
    """The default, measured again."""

    at: float
    score: float
    violation: float
    looks: list[Look]


class Pair(_Record):
    """Default and winner on fresh servers, one after the other."""

    default: float
    winner: float
    default_violation: float
    winner_violation: float
    winner_first: bool


class Verdict(_Record):
    """What the fresh runs say.

    Attributes:
        pairs: In order.
        ratio: Winner to default, geometric mean over pairs.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
        better: Whether the recipe is worth changing.
        why: In words.
    """

    pairs: list[Pair]
    ratio: float
    low: float
    high: float
    better: bool
    why: str


class Tuning(_Record):
    """One run of ``tritonforge tune``: ``trials.json``.

    Attributes:
        format: Of the file.
        recipe: The recipe's file.
        model: Its name.
        engine: The engine that was served.
        precision: Its precision.
        command: That repeats the run.
        started: Unix seconds.
        goal: Objective, levels of load and SLO.
        load: Items of a request, lengths and source of the texts, seconds at each level.
        method: ``tpe`` or ``grid``.
        seed: Of sampler and texts.
        space: Values that were to be tried, by key.
        machine: Where.
        anchors: The default, before and after each block of trials.
        trials: In order; the first is the default.
        spread: Typical difference of two neighbouring anchors, as a share.
        importance: Shares of the keys in the result (fANOVA); empty of a short search.
        ended: Why the search ended.
        winner: What the best changes, by key.
        verdict: What fresh servers said of it.
        result: What came of it all, in a sentence.
        written: The better recipe's file.
    """

    format: Literal[1] = 1
    recipe: str
    model: str
    engine: str
    precision: str
    command: str
    started: float
    goal: dict[str, Any]
    load: dict[str, Any]
    method: str
    seed: int
    space: dict[str, list[Any]]
    machine: dict[str, Any]
    anchors: list[AnchorRecord] = Field(default_factory=list)
    trials: list[Trial] = Field(default_factory=list)
    spread: float | None = None
    importance: dict[str, float] = Field(default_factory=dict)
    ended: str = ""
    winner: dict[str, Any] | None = None
    verdict: Verdict | None = None
    result: str = ""
    written: str | None = None

    def save(self, folder: Path) -> None:
        """Write ``trials.json`` whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "trials.json", self.model_dump_json(indent=2) + "\n")
