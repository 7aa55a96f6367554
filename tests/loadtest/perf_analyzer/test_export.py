from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.errors import LoadTestError
from loadtest.perf_analyzer.export import read_encoder, read_streams

SECOND = 1_000_000_000


def written(folder: Path, *requests: dict[str, Any]) -> Path:
    """As perf_analyzer 2.60.0 writes it, in this order of keys and without blanks."""
    export = {
        "experiments": [{"experiment": {"mode": "concurrency", "value": 1}, "requests": list(requests)}],
        "version": "",
    }
    (folder / "export.json").write_text(json.dumps(export, separators=(",", ":")))
    return folder / "export.json"


def vector(sent: int, ended: int, text: str = "a") -> dict[str, Any]:
    return {
        "timestamp": sent,
        "request_inputs": {"text": text},
        "response_timestamps": [ended],
        "response_outputs": [{"embedding": [0.5, 0.25]}],
    }


def stream(sent: int, times: list[int], tokens: int | str) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = [{"text_output": "a", "completion_tokens": ""} for _ in times]
    outputs[-1]["completion_tokens"] = tokens
    return {"timestamp": sent, "response_timestamps": times, "response_outputs": outputs}


def test_encoders(tmp_path: Path) -> None:
    # Texts that look like the keys that are searched for.
    tricky = '{"timestamp":12,"response_timestamps":[34'
    start = 1_795_643_173 * SECOND
    file = written(
        tmp_path, vector(start, start + 2_000_000), vector(start + SECOND, start + 2 * SECOND, tricky)
    )
    records = read_encoder(file, texts=3)
    np.testing.assert_allclose(records.latency, [2, 1000])
    np.testing.assert_allclose(records.ended, [start / SECOND + 0.002, start / SECOND + 2], rtol=1e-15)
    assert records.items.tolist() == [3, 3]
    assert not records.streamed


def test_streams(tmp_path: Path) -> None:
    file = written(tmp_path, stream(0, [100_000_000, 200_000_000], 3), stream(SECOND, [2 * SECOND], 1))
    records = read_streams(file)
    np.testing.assert_allclose(records.latency, [200, 1000])
    np.testing.assert_allclose(records.first, [100, 1000])
    assert records.items.tolist() == [3, 1]


def test_answers_that_are_cut_off_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="cut off"):
        read_streams(written(tmp_path, stream(0, [1], "")))


def test_another_format_is_an_error(tmp_path: Path) -> None:
    for read in (read_streams, lambda file: read_encoder(file, 1)):
        with pytest.raises(LoadTestError, match="cannot be read"):
            read(written(tmp_path))
        with pytest.raises(LoadTestError, match="cannot be read"):
            read(written(tmp_path, {"timestamp": 1, "responses": []}))
