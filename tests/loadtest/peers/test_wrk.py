"""What goes into wrk and what comes out; the real program runs in test_ours.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.peers.system import Way
from loadtest.peers.wrk import find_wrk, read_wrk, write_requests

OUTPUT = """Running 1s test @ http://127.0.0.1:8000/embed
  1 threads and 2 connections
Requests/sec:    285.12

{"seconds": 1.003, "requests": 286, "bytes": 2342340, "p50_us": 6890, "p90_us": 8100, "p99_us": 12030, \
"max_us": 15000, "connect": 0, "read": 3, "write": 0, "status": 2, "timeout": 0}
"""


def test_figures_are_read_from_the_line_below_its_own_words() -> None:
    load = read_wrk(OUTPUT)
    assert (load.requests, load.seconds, load.bytes) == (286, 1.003, 2342340)
    assert (load.p50_ms, load.p90_ms, load.p99_ms) == (6.89, 8.1, 12.03)
    assert load.errors == {"read": 3, "status": 2}
    assert load.failed == 5


def test_words_without_figures_are_an_error_that_shows_them() -> None:
    with pytest.raises(LoadTestError, match="no figures") as caught:
        read_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")
    assert "Connection refused" in str(caught.value)


def test_each_text_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    way = Way(
        name="w",
        title="W",
        path="/",
        body=lambda text: {"text": text},
        read=lambda answer: answer,
        answer="",
        headers={"authorization": "Bearer a: b"},
    )
    texts = ['two\nlines, "quoted"', "日本語\u2028", "plain"]
    write_requests(tmp_path / "new", way, texts)
    lines = (tmp_path / "new" / "bodies").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts
    headers = (tmp_path / "new" / "headers").read_text().splitlines()
    assert headers == ["content-type: application/json", "authorization: Bearer a: b"]


def test_a_machine_without_wrk_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(LoadTestError, match="apt-get install wrk"):
        find_wrk()
