"""Which settings to try next: Optuna's TPE, or a grid."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Literal

from loadtest.tune.records import Trial
from loadtest.tune.space import Parameter, Value

if TYPE_CHECKING:
    import optuna

Method = Literal["tpe", "grid"]
Settings = dict[str, Value]

_STARTUP = 10  # random settings before the sampler learns, fewer in a short search
_ENOUGH = 10  # measured trials, for an importance that is more than chance
_SPARE = 20  # points of a grid for each trial that is wanted: some come to the same server


class Sampler:
    """Proposes settings, the default's first, and learns what came of them.

    A parameter is an index into its values, so that the sampler knows that 8 lies between 4 and 16.

    Args:
        space: What is searched.
        own: The default's settings.
        trials: How many will be tried.
        method: ``tpe``, or ``grid``: every point, in random order.
        seed: The same seed proposes the same, if the same comes of it.
    """

    def __init__(
        self, space: Sequence[Parameter], own: Mapping[str, Value], trials: int, method: Method, seed: int
    ) -> None:
        """Set up the study."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        startup = max(4, min(_STARTUP, trials // 3))
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._study.enqueue_trial({each.key: each.values.index(own[each.key]) for each in space})
        self._space = space
        self._points = self._grid(trials, seed) if method == "grid" else repeat({})

    def ask(self) -> tuple[optuna.Trial, Settings] | None:
        """The next settings, and what to :meth:`tell` of them; None if the grid is used up."""
        point = next(self._points, None)
        if point is None:
            return None
        if point:
            self._study.enqueue_trial(point)
        trial = self._study.ask()
        return trial, {
            each.key: each.values[trial.suggest_int(each.key, 0, len(each.values) - 1)]
            for each in self._space
        }

    def tell(self, proposal: optuna.Trial, trial: Trial | None) -> None:
        """Say what came of settings; None: they were not tried."""
        import optuna

        if trial is None or trial.ratio is None:
            self._study.tell(proposal, state=optuna.trial.TrialState.FAIL)
            return
        proposal.set_constraint("slo", trial.violation)
        if trial.status == "pruned":
            proposal.report(trial.ratio, 0)
            self._study.tell(proposal, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(proposal, trial.ratio)

    def importance(self) -> dict[str, float]:
        """How much each key had to do with the result, shares of 1, the greatest first; empty if unknown.

        fANOVA (Hutter et al. 2014), for which Optuna needs scikit-learn. PED-ANOVA, which needs nothing,
        takes what TPE happened to propose often for what mattered.
        """
        import optuna

        if len(self._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) < _ENOUGH:
            return {}
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        except (ImportError, ValueError, RuntimeError):  # the latter two: all results alike
            return {}

    def _grid(self, trials: int, seed: int) -> Iterator[dict[str, int]]:
        """Points in random order, after a place for the default; a large grid is never all in memory."""
        yield {}
        size = math.prod(len(each.values) for each in self._space)
        for number in random.Random(seed).sample(range(size), min(size, _SPARE * trials)):
            point = {}
            for each in self._space:
                number, point[each.key] = divmod(number, len(each.values))
            yield point
