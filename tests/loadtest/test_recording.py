from __future__ import annotations

from pathlib import Path

import numpy as np

from loadtest.recording import Recorder, read_records, read_stages
from loadtest.records import Failure


def test_records_of_a_run_come_back(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.stage(4)
    recorder.answered(10.0, 2.5, 3, None)
    recorder.flush()
    recorder.answered(11.0, 3.5, 7, 1.5)
    recorder.failed(12.0, 'HTTP 429 "rate_limited"')
    recorder.flush()
    recorder.flush()
    (tmp_path / "answers-1.f64").write_bytes(
        np.array([9.0, 1.0, 1.0, np.nan]).tobytes()
    )  # of another process
    records = read_records(tmp_path)
    assert sorted(records.ended.tolist()) == [9.0, 10.0, 11.0]
    assert records.items.sum() == 11
    assert np.isfinite(records.first).sum() == 1
    assert records.failures == (Failure(12.0, 'HTTP 429 "rate_limited"'),)
    assert [stage["users"] for stage in read_stages(tmp_path)] == [4]


def test_nothing_recorded_is_no_record(tmp_path: Path) -> None:
    assert len(read_records(tmp_path).ended) == 0
    assert read_stages(tmp_path) == []
