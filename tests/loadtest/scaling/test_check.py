"""Predictions of one server held against the real one, under a load that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.sampling import Watch
from loadtest.scaling.check import Comparison, compare
from loadtest.scaling.measure import measure_own
from loadtest.scaling.others import MUCH
from loadtest.scaling.profile import Profile

AIM = 2.5
"""A tiny model's requests take a millisecond or two, of which the machine's moods are much."""

ORDER = 5
"""What fails the test: a prediction is wrong then, not the moment."""


@pytest.mark.slow
@pytest.mark.alone
def test_predictions_are_near_what_is_measured(
    tiny_build: Callable[[str, str], Any], tiny_repository: Path, tmp_path: Path
) -> None:
    tiny_build("bert", "embedding")
    found: list[Comparison] = []

    def then(profile: Profile, url: str, watch: Watch) -> None:
        for _ in range(3):  # a moment's mood does not decide
            found[:] = compare(profile, url, watch, shares=(0.3, 0.6), seconds=2)
            if all(each.off() <= AIM for each in found):
                return

    profile = measure_own(
        tiny_repository,
        "bert-embedding",
        log=tmp_path / "log",
        mix="8:1,32:1",
        in_flight=(1, 4, 16, 64),
        seconds=1.0,
        then=then,
    )
    assert profile.start_s > 0
    assert profile.repository_bytes > 10_000
    assert [stage.model for stage in profile.stages] == ["bert-embedding_tokenizer", "bert-embedding_engine"]
    assert len(found) == 2
    others = max(each.others for each in found)
    if others > MUCH * profile.setting.machine.cores:
        pytest.skip(f"others used {others:.1f} CPUs meanwhile")
    for each in found:
        assert each.answered == pytest.approx(each.rate, rel=0.25)
        assert each.off() <= ORDER, each


def test_off_is_the_worse_of_both_percentiles_either_way() -> None:
    common: dict[str, Any] = {
        "share": 0.5,
        "rate": 1,
        "predicted_batch": 1,
        "batch": 1,
        "steady": True,
        "answered": 1,
    }
    fast = Comparison(predicted_p50_s=1, predicted_p99_s=1, p50_s=2, p99_s=1.5, others=0, **common)
    slow = Comparison(predicted_p50_s=1, predicted_p99_s=3, p50_s=1, p99_s=1, others=0, **common)
    assert (fast.off(), slow.off()) == (2, 3)
