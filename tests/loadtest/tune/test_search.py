"""The search on servers whose speed is a known formula; real ones are in test_tune.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtest.tune.bench import Bench
from loadtest.tune.goal import Goal, Look
from loadtest.tune.load import Load
from loadtest.tune.published import PublishedModel
from loadtest.tune.records import Trial, Tuning
from loadtest.tune.sampler import Method
from loadtest.tune.search import Search
from loadtest.tune.space import narrowed, search_space
from tritonforge.errors import ServerError
from tritonforge.recipe import Recipe

RECIPE = Recipe.model_validate({"name": "m", "model": "x", "engine": "openvino"})
KEYS = ("batching.max_queue_delay_us", "batching.token_budget", "instances.engine", "instances.tokenizer")


@dataclass(frozen=True)
class Formula(Bench):
    """Best with a delay of 1000 us and two engines, on a machine that gets 2 % slower each second."""

    served: list[Recipe] = field(default_factory=list)
    fails: Callable[[Recipe], bool] = lambda recipe: False

    def now(self) -> float:
        return float(len(self.served))

    def measure(
        self, recipe: Recipe, seed: int, decisive: Look | None, noise: float = 0.0
    ) -> tuple[list[Look], bool]:
        self.served.append(recipe)  # which takes a second
        if self.fails(recipe):
            raise ServerError("it did not start\nfor a reason")
        machine = 0.98 ** self.now()
        delay, engines = recipe.batching.max_queue_delay_us, recipe.instances.engine
        speed = 100 * (1 + engines) / 2 * math.exp(-(((delay - 1000) / 2000) ** 2))
        looks = [
            Look(level=level, items_per_second=speed * machine, p50_ms=5, p99_ms=level + delay / 100)
            for level in self.goal.levels
        ]
        if decisive is not None and self.goal.hopeless(looks[-1], decisive, noise):
            return looks[-1:], False
        return looks, True


def search(
    work: Path,
    *,
    trials: int = 40,
    method: Method = "tpe",
    slo: float | None = None,
    done: Callable[[Trial], None] = lambda trial: None,
    fails: Callable[[Recipe], bool] = lambda recipe: False,
) -> Search:
    def unused(recipe: Recipe, folder: Path) -> None:
        raise AssertionError

    model = PublishedModel(RECIPE, "openvino", "fp32", "embedding", 1, unused)
    load = Load(Path("tool"), "m", False, None, 1)
    bench = Formula(model, Goal("throughput", (8,), slo), load, work, 1.0, fails=fails)
    whole = search_space(RECIPE, engine="openvino", cores=2)
    space = narrowed(RECIPE, whole, [(key, ()) for key in KEYS])
    facts: dict[str, Any] = dict.fromkeys(("recipe", "model", "engine", "precision", "command"), "x")
    facts |= {key: {} for key in ("goal", "load", "space", "machine")}
    tuning = Tuning(started=0.0, method=method, seed=0, **facts)
    return Search(bench, space, tuning, trials, 3600.0, method, 0, done=done, clock=bench.now)


@pytest.mark.parametrize("method", ["tpe", "grid"])
def test_finds_the_best_and_leaves_alone_what_does_nothing(tmp_path: Path, method: Method) -> None:
    tuned = search(tmp_path, trials=60, method=method)
    winner = tuned.run()
    assert winner is not None
    assert winner.batching.max_queue_delay_us == 1000
    assert winner.instances.engine == 2
    assert tuned.tuning.importance["instances.tokenizer"] < 0.05
    assert (winner.instances.tokenizer, winner.batching.token_budget) == (1, 4096), "changed for nothing"


def test_ratios_do_not_depend_on_how_slow_the_machine_has_become(tmp_path: Path) -> None:
    tuned = search(tmp_path)
    tuned.run()
    anchors = tuned.tuning.anchors
    assert anchors[-1].score < 0.7 * anchors[0].score, "the machine did not become slower"
    same = {"batching.max_queue_delay_us": 0, "instances.engine": 2}
    ratios = [
        trial.ratio
        for trial in tuned.tuning.trials
        if trial.status == "measured" and same.items() <= trial.settings.items()
    ]
    assert ratios
    assert ratios == pytest.approx([1.5] * len(ratios), rel=0.02)


def test_the_default_comes_first_and_is_measured_again_after_four_settings(tmp_path: Path) -> None:
    tuned = search(tmp_path, trials=8)
    tuned.run()
    assert tuned.tuning.trials[0].settings == {
        "batching.max_queue_delay_us": 0,
        "batching.token_budget": 4096,
        "instances.engine": 1,
        "instances.tokenizer": 1,
    }
    bench = tuned.bench
    assert isinstance(bench, Formula)
    where = [number for number, recipe in enumerate(bench.served) if recipe == RECIPE]
    assert where[:3] == [0, 5, 10]


def test_no_setting_is_measured_twice_in_the_search(tmp_path: Path) -> None:
    tuned = search(tmp_path, trials=500, method="grid")
    tuned.run()
    seen = [json.dumps(t.settings) for t in tuned.tuning.trials if t.stage == "search"]
    assert len(seen) == len(set(seen)) == 6 * 5 * 2 * 2
    assert tuned.tuning.ended == "all settings were tried"


def test_hopeless_settings_are_given_up_and_never_win(tmp_path: Path) -> None:
    tuned = search(tmp_path)
    tuned.run()
    pruned = [trial for trial in tuned.tuning.trials if trial.status == "pruned"]
    assert pruned
    assert all(trial.score is None and trial.ratio and trial.ratio < 0.7 for trial in pruned)


def test_what_misses_the_slo_does_not_win(tmp_path: Path) -> None:
    winner = search(tmp_path, trials=60, slo=14.0).run()
    assert winner is not None
    assert winner.batching.max_queue_delay_us == 500, "p99 would be 18 ms with 1000"


def test_an_slo_that_nothing_meets_has_no_winner(tmp_path: Path) -> None:
    assert search(tmp_path, trials=12, slo=1.0).run() is None


def test_settings_that_do_not_start_are_noted_and_the_search_goes_on(tmp_path: Path) -> None:
    tuned = search(tmp_path, fails=lambda recipe: recipe.instances.engine == 2)
    winner = tuned.run()
    assert winner is not None and winner.instances.engine == 1
    failed = [trial for trial in tuned.tuning.trials if trial.status == "failed"]
    assert failed
    assert {trial.error for trial in failed} == {"it did not start\nfor a reason"}


def test_a_default_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="did not start"):
        search(tmp_path, fails=lambda recipe: True).run()


def test_an_interruption_keeps_what_was_measured(tmp_path: Path) -> None:
    def stop(trial: Trial) -> None:
        if trial.number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, done=stop).run()
    kept = Tuning.model_validate_json((tmp_path / "trials.json").read_bytes())
    assert [trial.number for trial in kept.trials] == list(range(7))
    assert all(trial.ratio for trial in kept.trials), "the last block has no anchor behind it"


def test_the_same_seed_tries_the_same_settings(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        tuned = search(tmp_path, trials=12)
        tuned.run()
        runs.append([trial.settings for trial in tuned.tuning.trials])
    assert runs[0] == runs[1]
