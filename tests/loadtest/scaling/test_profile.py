"""What a profile says of batches that were not seen, and what becomes of Triton's statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.scaling.events import Node
from loadtest.scaling.profile import BatchTime, Profile, Stage, batch_times, read_profile, write_profile


def stage(*times: tuple[int, float, int], most: int = 8) -> Stage:
    seen = tuple(BatchTime(batch=batch, seconds=seconds, count=count) for batch, seconds, count in times)
    return Stage(model="m", instances=1, max_batch=most, times=seen)


def test_times_between_those_seen_go_straight_and_beyond_them_on() -> None:
    table = stage((1, 1.0, 5), (3, 3.0, 5), (5, 5.0, 5)).table()
    assert table == pytest.approx(np.arange(1.0, 9.0))


def test_a_larger_batch_never_takes_less_and_what_was_seen_often_counts_more() -> None:
    table = stage((1, 1.0, 99), (2, 4.0, 1), (3, 2.0, 99)).table()
    assert (np.diff(table) >= 0).all()
    assert table[1] == pytest.approx(2.02, abs=0.01)


def test_one_size_alone_is_taken_for_a_price_by_text() -> None:
    assert stage((4, 2.0, 3), most=8).table()[[3, 7]] == pytest.approx([2.0, 4.0])


def test_statistics_are_of_the_time_between_two_looks() -> None:
    found = batch_times(
        {1: (10, 1_000_000), 2: (5, 5_000_000)}, {1: (20, 3_000_000), 2: (5, 5_000_000), 4: (1, 7_000_000)}
    )
    assert [(each.batch, each.count, each.seconds) for each in found] == [
        (1, 10, pytest.approx(0.0002)),
        (4, 1, pytest.approx(0.007)),
    ]


def test_long_texts_cost_more_and_the_mean_is_what_was_measured(profile: Profile) -> None:
    node = Node.of(profile)
    costs, weights = np.array(node.costs), np.array(node.weights)
    assert float(costs @ weights) == pytest.approx(1)
    engine = node.stages[-1]
    # A lone text of each length takes as long as it was seen to: from the line through both.
    times = engine.fixed_s + (np.mean([0.004, 0.008]) - engine.fixed_s) * costs
    assert times == pytest.approx([0.004, 0.008])


def test_cores_are_those_of_the_closed_loops(profile: Profile) -> None:
    assert profile.cores_at(0) == 0
    assert profile.cores_at(250) == pytest.approx(1.4)
    assert profile.cores_at(9999) == pytest.approx(1.9)
    disturbed = profile.levels[1].model_copy(update={"rate": 500, "cores": 1.0})
    assert profile.model_copy(update={"levels": (*profile.levels, disturbed)}).cores_at(500) == 1.9


def test_a_profile_is_read_as_it_was_written(profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "a" / "profile.json"
    write_profile(profile, file)
    assert read_profile(file) == profile
    file.write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(LoadTestError, match="is no profile"):
        read_profile(file)
    with pytest.raises(LoadTestError, match="measure one"):
        read_profile(tmp_path / "none.json")
