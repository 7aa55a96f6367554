"""The search: settings from Optuna, each on a server of its own, in blocks between looks at the default."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from loadtest.tune.anchors import Anchor, expected, spread
from loadtest.tune.bench import Bench
from loadtest.tune.goal import Look
from loadtest.tune.records import AnchorRecord, Stage, Status, Trial, Tuning
from loadtest.tune.sampler import Method, Sampler
from loadtest.tune.space import Parameter, Value, apply, as_yaml, changes, own_settings, signature
from tritonforge.errors import RecipeError, TritonForgeError
from tritonforge.recipe import Recipe

if TYPE_CHECKING:
    import optuna

_BLOCK = 4  # settings between two looks at the default
_RUN_OFF = 3  # of the best are measured again
_MATTERS = 0.05  # least share of importance
_AS_GOOD = 0.98  # the fewer changes are worth more than the rest
_STALE = 40  # proposals in a row that are known already: the space is used up
_ERROR_LINES = 4


@dataclass(eq=False)
class _Known:
    """A setting that was proposed, with Optuna's trials that did so."""

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
        clock: In seconds.
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
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Set up the sampler; nothing is measured yet."""
        self._default = self.bench.model.recipe
        own = own_settings(self._default, self.space)
        self._sampler = Sampler(self.space, own, self.trials, self.method, self.seed)
        self._known: dict[tuple[tuple[str, Value], ...], _Known] = {}
        self._started = self.clock()
        self._decisive: Look | None = None

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
            self.tuning.importance = self._sampler.importance()
            return self._run_off()
        finally:
            self._settle()

    def _run_off(self) -> Recipe | None:
        """Measure the best again, and the best without what hardly mattered to it.

        The best of many is best by luck as well; and a sampler changes keys that do nothing.
        """
        best = [recipe for _, recipe in self._ranked()[:_RUN_OFF]]
        if not best:
            return None
        plain = self._simplified(best[0])
        if plain not in best and plain != self._default:
            self._known.setdefault(signature(plain, self.space), _Known(plain))
            best.append(plain)
        if len(best) == 1:
            return best[0]
        self._measure_block(best, "run-off")
        ranked = self._ranked()
        for ratio, recipe in ranked:
            if recipe == plain and ratio > ranked[0][0] * _AS_GOOD:
                return plain
        return ranked[0][1] if ranked else None

    def _simplified(self, recipe: Recipe) -> Recipe:
        """The default with only those of a recipe's changes that mattered."""
        shares = self.tuning.importance
        changed = changes(self._default, recipe, self.space)
        return apply(
            self._default,
            {key: value for key, value in changed.items() if shares.get(key, 1.0) >= _MATTERS},
        )

    def _ask(self) -> list[_Known]:
        """Settings that were not tried yet, a block at most."""
        block: list[_Known] = []
        stale = 0
        tried = sum(trial.stage == "search" for trial in self.tuning.trials) - 1
        while len(block) < min(_BLOCK, self.trials - tried) and not self._late():
            asked = self._sampler.ask() if stale < _STALE else None
            if asked is None:
                if not block:
                    self.tuning.ended = "all settings were tried"
                break
            proposal, settings = asked
            try:
                recipe = apply(self._default, settings)
            except RecipeError as error:
                self._note(self._new(settings, "failed", error.what))
                self._sampler.tell(proposal, None)
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

    def _measure_block(self, recipes: Sequence[Recipe], stage: Stage, block: Sequence[_Known] = ()) -> None:
        """Measure settings, then the default, by which all of them are judged."""
        for number, recipe in enumerate(recipes):
            if stage == "search" and self._late():
                break
            trial = self._measure(recipe, stage)
            if block:
                block[number].trial = trial
            self._note(trial)
        self._anchor()

    def _measure(self, recipe: Recipe, stage: Stage) -> Trial:
        start = self.clock()
        trial = self._new(own_settings(recipe, self.space), "measured")
        trial.stage = stage
        self.progress(f"trial {trial.number} ({stage}): {describe(self._default, recipe, self.space)}")
        try:
            noise = self.tuning.spread or 0.0
            looks, whole = self.bench.measure(recipe, self.seed, self._decisive, noise)
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
        now = self.clock()
        trial.at, trial.seconds = (start + now) / 2 - self._started, now - start
        return trial

    def _anchor(self) -> None:
        """Measure the default; the first time it is trial 0 as well."""
        self.progress("the default")
        start = self.clock()
        try:
            looks, _ = self.bench.measure(self._default, self.seed, None)
        except TritonForgeError:
            if not self.tuning.anchors:
                raise
            start = self.clock()  # it could be served before, so once more
            looks, _ = self.bench.measure(self._default, self.seed, None)
        score = self.bench.goal.score(looks)
        self._decisive = self.bench.goal.decisive(looks)
        now = self.clock()
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
        """Give the sampler what came of a setting, once for each time that it proposed it."""
        for proposal in known.proposals:
            self._sampler.tell(proposal, known.trial)
        known.proposals.clear()

    def _ranked(self) -> list[tuple[float, Recipe]]:
        """What meets the SLO and seems better than the default in all its trials, with ratios, best first."""
        trials: dict[Any, list[Trial]] = {}
        for trial in self.tuning.trials:
            if trial.ratio is not None:
                key = signature(apply(self._default, trial.settings), self.space)
                trials.setdefault(key, []).append(trial)
        found = []
        for key, of_one in trials.items():
            if any(trial.status != "measured" or trial.violation for trial in of_one):
                continue
            ratio = geometric_mean([trial.ratio or 0.0 for trial in of_one])
            recipe = self._known[key].recipe
            if ratio > 1.0 and recipe != self._default:
                found.append((ratio, recipe))
        return sorted(found, key=lambda pair: -pair[0])

    def _new(self, settings: dict[str, Value], status: Status, error: str | None = None) -> Trial:
        at = self.clock() - self._started
        number = len(self.tuning.trials)
        return Trial(number=number, settings=settings, status=status, at=at, seconds=0.0, error=error)

    def _note(self, trial: Trial) -> None:
        self.tuning.trials.append(trial)
        self._settle()
        self.done(trial)

    def _late(self) -> bool:
        return self.clock() - self._started > self.timeout


def describe(default: Recipe, recipe: Recipe, space: Sequence[Parameter]) -> str:
    """What differs from the default, in a few words."""
    old, new = own_settings(default, space), own_settings(recipe, space)
    return ", ".join(f"{key} {as_yaml(new[key])}" for key in new if new[key] != old[key]) or "the default"
