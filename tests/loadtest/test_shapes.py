from __future__ import annotations

import pytest

from loadtest.shapes import Stage, stage_after, stages_of
from tritonforge.errors import UsageError


def test_steps_take_each_number_in_turn() -> None:
    assert stages_of("steps", (1, 4), 10, 2) == (Stage(1, 2, 10), Stage(4, 2, 10))


def test_a_spike_comes_back_to_where_it_began() -> None:
    assert [stage.users for stage in stages_of("spike", (4, 64), 10, 2)] == [4, 64, 4]


def test_a_soak_is_one_stage() -> None:
    assert stages_of("soak", (16,), 1200, 5) == (Stage(16, 5, 1200),)


@pytest.mark.parametrize(
    ("shape", "users", "said"),
    [
        ("spike", (4,), "2 numbers"),
        ("soak", (1, 2), "1 number"),
        ("steps", (), "positive"),
        ("wave", (1,), "wave"),
    ],
)
def test_what_does_not_fit_is_said(shape: str, users: tuple[int, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        stages_of(shape, users, 1, 0)


def test_a_stage_is_never_cut_short() -> None:
    stages = stages_of("steps", (1, 2), 10, 2)
    assert stage_after(stages, 0, 11.9) == 0
    assert stage_after(stages, 0, 12.0) == 1
    assert stage_after(stages, 1, 11.9) == 1
    assert stage_after(stages, 1, 40.0) is None
