"""The benchmark of the ensemble, on a tiny model: that both sides answer, and what its figures are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench_ensemble import main


def test_both_sides_compute_the_same_texts_in_requests_of_several(
    tiny_build: Callable[[str, str], Any],
    tiny_repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_build("bert", "embedding")
    arguments = ["--model", "bert-embedding", "--repository", str(tiny_repository), "--texts", "64"]
    arguments += ["--rounds", "1", "--concurrency", "2", "--request-texts", "16", "--engine-threads", "1"]
    main([*arguments, "--mix", "8:1", "--log", str(tmp_path / "log"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["direct_batch"] == 32
    assert 16 <= result["mean_batch"] <= 32
    # One round: the ratio is that round's.
    rates = result["ensemble_texts_per_second"], result["engine_alone_texts_per_second"]
    assert result["ratio"] == pytest.approx(rates[0] / rates[1])
    assert min(result[f"{who}_cpu_ms"] for who in ("engine_alone", "server", "client")) > 0
    assert [load["p50_ms"] <= load["p99_ms"] for load in result["latency"].values()] == [True] * 3
