"""The search: settings from Optuna, each on a server of its own, in blocks between looks at the default."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from loadtest.tune.anchors import Anchor, expected, spread
from loadtest.tune.bench import Bench
from loadtest.tune.goal import Look
from loadtest.tune.records import AnchorRecord, Stage, Status, Trial, Tuning
from loadtest.tune.space import Parameter, Value, apply, own_settings, signature
from tritonforge.errors import RecipeError, TritonForgeError
from tritonforge.recipe import Recipe

if TYPE_CHECKING:
    import optuna

Method = Literal["tpe", "grid"]

_BLOCK = 4  # settings between two looks at the default
_RUN_OFF = 3  # of the best are measured again
_STALE = 40  # proposals in a row that are known already: the space is used up
_ERROR_LINES = 4


@dataclass
class _Known:
    """A setting that was proposed, by Optuna's trials that did."""

    recipe: Recipe
    proposals: list[optuna.Trial] = field(default_factory=list)
    trial: Trial | None = None


@dataclass
class Search:
    """Finds the best setting.

    Attributes:
        bench: Serves and measures.
        space: What is searched.
        tuning: Filled in, and saved after each trial.
        trials: Settings to try at most, the default not counted.
        timeout: Seconds after which no further setting is tried.
        method: ``tpe``, or ``grid``: all settings, in random order.
        seed: Of the sampler and the texts.
        progress: Called with a line for the user when a server starts.
        done: Called after each trial.
    """

    bench: Bench
    space: Sequence[Parameter]
    tuning: Tuning
    trials: int
    timeout: float
    method: Method = "tpe"
    seed: int = 0
    progress: Callable[[str], None] = lambda message: None
    done: Callable[[Trial], None] = lambda trial: None

    def __post_init__(self) -> None:
        """Set up the study; nothing is measured yet."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        startup = max(4, min(10, self.trials // 3))
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=startup)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._default = self.bench.model.recipe
        self._known: dict[tuple[tuple[str, Value], ...], _Known] = {}
        self._started = time.monotonic()
        self._decisive: Look | None = None
        self._proposals = self._propose()

    def run(self) -> Recipe | None:
        """Search until the trials, the time or the space are used up, then measure the best again.

        Returns:
            The best, None if nothing seems better than the default.

        Raises:
            TritonForgeError: The default itself cannot be served.
            KeyboardInterrupt: All that was measured is in ``tuning`` and saved.
        """
        try:
            self._anchor()
            while block := self._ask():
                self._measure_block([known.recipe for known in block], "search", block)
                for known in block:
                    self._tell(known)
            self.tuning.ended = self.tuning.ended or "all trials were made"
            best = self._ranked()[:_RUN_OFF]
            if best:
                self._measure_block(best, "run-off", seed=self.seed + 1)
            ranked = self._ranked()
            return ranked[0] if ranked else None
        finally:
            self._settle()

    def _ask(self) -> list[_Known]:
        """Settings that were not tried yet, a block at most."""
        block: list[_Known] = []
        stale = 0
        tried = sum(trial.stage == "search" for trial in self.tuning.trials) - 1
        while len(block) < min(_BLOCK, self.trials - tried) and not self._late():
            proposal = next(self._proposals, None)
            if proposal is None or stale == _STALE:
                self.tuning.ended = "all settings were tried"
                break
            settings = {each.key: each.values[proposal.params[each.key]] for each in self.space}
            try:
                recipe = apply(self._default, settings)
            except RecipeError as error:
                self._note(self._new(settings, "failed", error.what))
                self._study.tell(proposal, state=_state("FAIL"))
                tried += 1
                continue
            known = self._known.setdefault(signature(recipe, self.space), _Known(recipe))
            known.proposals.append(proposal)
            if known.trial is not None:
                self._tell(known)
            if known.trial is None and known not in block:
                block.append(known)
                stale = 0
            else:
                stale += 1
        if self._late():
            self.tuning.ended = "the time was up"
        return block

    def _propose(self) -> Iterator[optuna.Trial]:
        """Optuna's trials with their parameters, the default's first."""
        own = own_settings(self._default, self.space)
        self._study.enqueue_trial({each.key: each.values.index(own[each.key]) for each in self.space})
        for point in self._grid() if self.method == "grid" else iter(dict, None):
            if point:
                self._study.enqueue_trial(point)
            trial = self._study.ask()
            for each in self.space:
                trial.suggest_int(each.key, 0, len(each.values) - 1)
            yield trial

    def _grid(self) -> Iterator[dict[str, int]]:
        """Points of the grid in random order, after one place for the default; it is never all in memory."""
        yield {}
        size = math.prod(len(each.values) for each in self.space)
        for number in random.Random(self.seed).sample(range(size), min(size, 20 * self.trials)):
            point = {}
            for each in self.space:
                number, point[each.key] = divmod(number, len(each.values))
            yield point

    def _measure_block(
        self,
        recipes: Sequence[Recipe],
        stage: Stage,
        block: Sequence[_Known] = (),
        seed: int | None = None,
    ) -> None:
        """Measure settings, then the default, by which all of them are judged."""
        for number, recipe in enumerate(recipes):
            if stage == "search" and self._late():
                break
            trial = self._measure(recipe, stage, self.seed if seed is None else seed)
            if block:
                block[number].trial = trial
            self._note(trial)
        self._anchor()

    def _measure(self, recipe: Recipe, stage: Stage, seed: int) -> Trial:
        start = time.monotonic()
        trial = self._new(own_settings(recipe, self.space), "measured")
        trial.stage = stage
        self.progress(f"trial {trial.number} ({stage}): {describe(self._default, recipe, self.space)}")
        try:
            looks, whole = self.bench.measure(recipe, seed, self._decisive)
        except TritonForgeError as error:
            trial.status = "failed"
            trial.error = "\n".join(error.what.splitlines()[:_ERROR_LINES])
        else:
            trial.looks = looks
            trial.status = "measured" if whole else "pruned"
            score = self.bench.goal.score(looks)
            trial.violation = score.violation
            if whole:
                trial.score = score.value
            elif self._decisive is not None:
                trial.ratio = self.bench.goal.ratio(looks[0], self._decisive)
        now = time.monotonic()
        trial.at, trial.seconds = (start + now) / 2 - self._started, now - start
        return trial

    def _anchor(self) -> None:
        """Measure the default; the first time it is trial 0 as well."""
        self.progress("the default")
        start = time.monotonic()
        looks, _ = self.bench.measure(self._default, self.seed, None)
        score = self.bench.goal.score(looks)
        self._decisive = self.bench.goal.decisive(looks)
        now = time.monotonic()
        at = (start + now) / 2 - self._started
        self.tuning.anchors.append(
            AnchorRecord(at=at, score=score.value, violation=score.violation, looks=looks)
        )
        if not self.tuning.trials:
            trial = Trial(
                number=0,
                settings=own_settings(self._default, self.space),
                status="measured",
                looks=looks,
                score=score.value,
                violation=score.violation,
                at=at,
                seconds=now - start,
            )
            self._known[signature(self._default, self.space)] = _Known(self._default, trial=trial)
            self._note(trial)
        self._settle()

    def _settle(self) -> None:
        """Divide all that was measured by the default of its moment, and save."""
        anchors = [Anchor(anchor.at, anchor.score) for anchor in self.tuning.anchors]
        for trial in self.tuning.trials:
            if trial.score is not None and anchors:
                trial.ratio = trial.score / expected(anchors, trial.at)
        self.tuning.spread = spread(anchors)
        self.tuning.save(self.bench.work)

    def _tell(self, known: _Known) -> None:
        """Give Optuna what came of a setting, once for each time that it proposed it."""
        trial = known.trial
        for proposal in known.proposals:
            if trial is None or trial.status == "failed":
                self._study.tell(proposal, state=_state("FAIL"))
                continue
            proposal.set_constraint("slo", trial.violation)
            if trial.status == "pruned":
                proposal.report(trial.ratio or 0.0, 0)
                self._study.tell(proposal, state=_state("PRUNED"))
            else:
                self._study.tell(proposal, trial.ratio)
        known.proposals.clear()

    def _ranked(self) -> list[Recipe]:
        """What meets the SLO and seems better than the default in all its trials, the best first."""
        found = []
        for key, known in self._known.items():
            trials = [
                trial
                for trial in self.tuning.trials
                if trial.ratio is not None
                and signature(apply(self._default, trial.settings), self.space) == key
            ]
            if not trials or any(trial.status != "measured" or trial.violation for trial in trials):
                continue
            ratio = math.exp(sum(math.log(trial.ratio or 0.0) for trial in trials) / len(trials))
            if ratio > 1.0 and known.recipe != self._default:
                found.append((ratio, known.recipe))
        return [recipe for _, recipe in sorted(found, key=lambda pair: -pair[0])]

    def importance(self) -> dict[str, float]:
        """How much each key had to do with the result, shares of 1, the greatest first; empty if unknown.

        PED-ANOVA, Watanabe et al. 2023: which values the better settings have in common.
        """
        import optuna

        try:
            return optuna.importance.get_param_importances(
                self._study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError):  # too few trials, or all alike
            return {}

    def _new(self, settings: dict[str, Value], status: Status, error: str | None = None) -> Trial:
        at = time.monotonic() - self._started
        number = len(self.tuning.trials)
        return Trial(number=number, settings=settings, status=status, at=at, seconds=0.0, error=error)

    def _note(self, trial: Trial) -> None:
        self.tuning.trials.append(trial)
        self._settle()
        self.done(trial)

    def _late(self) -> bool:
        return time.monotonic() - self._started > self.timeout


def describe(default: Recipe, recipe: Recipe, space: Sequence[Parameter]) -> str:
    """What differs from the default, in a few words."""
    old, new = own_settings(default, space), own_settings(recipe, space)
    return ", ".join(f"{key} {show(new[key])}" for key in new if new[key] != old[key]) or "the default"


def show(value: object) -> str:
    """A value of a setting, as YAML has it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _state(name: str) -> optuna.trial.TrialState:
    import optuna

    return optuna.trial.TrialState[name]
