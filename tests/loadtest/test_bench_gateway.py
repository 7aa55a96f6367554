"""The benchmark of the door, on a tiny model: that it asks every way, and what it makes its figures of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench_gateway import WAYS, main


def test_every_way_is_measured(
    tiny_build: Callable[[str, str], Any],
    tiny_repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_build("bert", "embedding")
    arguments = ["--model", "bert-embedding", "--repository", str(tiny_repository), "--texts", "32"]
    arguments += ["--rounds", "1", "--concurrency", "2", "--mix", "8:1", "--log", str(tmp_path / "log")]
    main([*arguments, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["added_p50_ms"].keys() == WAYS.keys()
    rows = result["throughput"]["2"]
    assert rows.keys() == WAYS.keys()
    assert rows["direct"]["ratio"] == 1
    for row in rows.values():
        assert row["texts_per_second"] > 0
        assert row["p50_ms"] <= row["p99_ms"]
        # One round: the ratio is that round's.
        assert row["ratio"] == pytest.approx(row["texts_per_second"] / rows["direct"]["texts_per_second"])
