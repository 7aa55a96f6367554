"""Ratios, and the page that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.peers.page import render, write_page
from loadtest.peers.records import Skipped, ratio, read_comparison
from tests.loadtest.peers.figures import comparison, row


def test_a_ratio_is_that_of_medians_and_its_range_that_of_rounds() -> None:
    ours = row("ours", {16: [100, 400, 200]}, ours=True)
    peer = row("peer", {16: [100, 100, 50]})
    found = ratio(ours, peer, 16)
    assert found is not None
    # 200 over 100; the rounds gave 1, 4 and 4.
    assert (found.spread.median, found.spread.low, found.spread.high) == (2, 1, 4)


def test_a_round_that_only_one_of_them_ran_is_in_no_range() -> None:
    found = ratio(row("ours", {1: [10, 30]}, ours=True), row("peer", {1: [5]}), 1)
    assert found is not None
    assert (found.spread.median, found.spread.low, found.spread.high) == (4, 2, 2)


@pytest.mark.parametrize("theirs", [{1: []}, {1: [0.0, 0.0]}, {16: [5.0]}])
def test_there_is_no_ratio_to_a_peer_that_answered_nothing(theirs: dict[int, list[float]]) -> None:
    assert ratio(row("ours", {1: [10, 10]}, ours=True), row("peer", theirs), 1) is None


def test_the_page_names_first_where_ours_is_behind() -> None:
    page = render(
        comparison(
            row("ours", {1: [90, 90], 16: [300, 310]}, ours=True),
            row("peer", {1: [100, 100], 16: [100, 102]}),
        )
    )
    behind = "- Ours, against Peer: 0.90 times at 1 connection"
    assert behind in page
    assert page.index(behind) < page.index("## Method")
    assert "times at 16 connections" not in page
    assert "| Ours | Peer | **0.90** | 3.02 (3.00 to 3.04) |" in page
    assert "| **Ours** | 90.0 | 305 (300 to 310) | 0.9990 | 0.9900 | 0 of 200 | 0 |" in page


def test_the_page_says_so_where_ours_is_behind_nowhere() -> None:
    page = render(
        comparison(row("ours", {1: [200], 16: [200]}, ours=True), row("peer", {1: [100], 16: [100]}))
    )
    assert "Ours is slower than no peer" in page
    assert "| float32 | 2.00 of Peer | 2.00 of Peer |" in page


def test_a_page_from_a_busy_machine_says_so() -> None:
    fast = row("ours", {1: [200]}, ours=True)
    assert "was busy" in render(comparison(fast, load_before=5.0))
    assert "was busy" not in render(comparison(fast, load_before=0.5))


def test_precisions_are_never_compared_with_each_other() -> None:
    ours = row("ours", {1: [200]}, ours=True, precision="int8")
    page = render(comparison(ours, row("peer", {1: [100]})))
    assert not list(comparison(ours, row("peer", {1: [100]})).ratios("int8"))
    assert "How many times" not in page


def test_failures_mix_ups_and_what_was_not_measured_are_told() -> None:
    bad = row("peer", {1: [100]}, errors={"status": 7}, wrong=3)
    absent = Skipped(name="other", title="Other", reason="not installed")
    page = render(comparison(bad, row("ours", {1: [200]}, ours=True), skipped=(absent,)))
    assert "Peer had 7 failed requests and 3 answers of another text" in page
    assert "- Other: not installed" in page


def test_the_file_comes_back_as_it_was_and_others_are_refused(tmp_path: Path) -> None:
    made = comparison(row("ours", {1: [200.5]}, ours=True))
    path = tmp_path / "comparison.json"
    path.write_text(made.model_dump_json())
    assert read_comparison(path) == made
    write_page(made, tmp_path / "new" / "page.md")
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["page.md"]
    path.write_text("{}")
    with pytest.raises(LoadTestError, match="no comparison of format 1"):
        read_comparison(path)
    with pytest.raises(LoadTestError, match="tritonforge compare"):
        read_comparison(tmp_path / "none.json")
