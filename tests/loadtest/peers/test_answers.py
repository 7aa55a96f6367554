"""Whether answers are right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from loadtest.errors import LoadTestError
from loadtest.peers.answers import judge

WANTED = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)


def test_the_same_directions_are_right_whatever_their_lengths() -> None:
    unit = WANTED / np.linalg.norm(WANTED, axis=1)[:, None]
    found = judge(unit, WANTED, "row")
    assert found.mean == pytest.approx(1, abs=1e-6)
    assert found.least == pytest.approx(1, abs=1e-6)
    assert (found.wrong, found.texts) == (0, 20)
    assert found.norm < 1e-6
    assert judge(unit * 3, WANTED, "row").norm == pytest.approx(2, abs=1e-5)


def test_answers_that_changed_places_are_wrong() -> None:
    swapped = WANTED.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    found = judge(swapped, WANTED, "row")
    assert found.wrong == 2
    assert found.least < 0.9


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(WANTED[:, :4], "reference's"), (WANTED[:10], "reference's"), (np.full_like(WANTED, np.nan), "finite")],
)
def test_what_cannot_be_judged_is_an_error(vectors: NDArray[np.float32], message: str) -> None:
    with pytest.raises(LoadTestError, match=message):
        judge(vectors, WANTED, "row")
