"""``tritonforge loadtest report`` and ``diff``: what people read, what machines read, and exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loadtest.errors import LoadTestError
from loadtest.results import Latency, LoadRun
from tests.loadtest.report.synthetic import Noise, mm1, point, run
from tritonforge.cli import app
from tritonforge.errors import UsageError

Write = Callable[[str, LoadRun], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, made: LoadRun) -> Path:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(made.model_dump_json(), encoding="utf-8")
        return tmp_path / name

    return written


def invoke(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["loadtest", *map(str, arguments)])


def closed(seed: int, speed: float = 1.0, **setting: Any) -> LoadRun:
    points = []
    for level in (1, 4):
        rate = speed * 300 * level / (level + 3)
        mean = 1e3 * level / rate
        times = Latency(mean=mean, p50=mean, p90=mean, p95=mean, p99=2 * mean)
        points.append(point(level, rate, times, noise=Noise(seed, spread=0.02, windows=20)))
    return run(points, **setting)


def test_a_report_for_people(write: Write) -> None:
    folder = write("one", run(mm1((30, 50, 60))))
    done = invoke("report", folder, "--slo-p99-ms", 100)
    assert done.exit_code == 0, done.output
    assert (
        "toy serves 53.4 requests/s at p99 100 ms: between Poisson rate 50/s, which keeps it" in done.output
    )
    assert "mind: No windows were recorded" in done.output
    assert (folder / "report.html").exists() and (folder / "report.md").exists()


def test_a_report_for_machines(write: Write, tmp_path: Path) -> None:
    folder = write("one", run(mm1((30, 50, 60))))
    page = tmp_path / "page.html"
    done = invoke("report", folder, "--slo-p99-ms", 100, "--slo-p50-ms", 1000, "--output", page, "--json")
    found = json.loads(done.output)
    (sweep,) = found["sweeps"]
    assert found["page"] == str(page) and page.exists()
    assert sweep["capacity"]["outcome"] == "between"
    assert sweep["capacity"]["slo"] == "p50 1,000 ms and p99 100 ms"
    assert (sweep["capacity"]["last_level_that_meets"], sweep["capacity"]["first_that_misses"]) == (50, 60)
    assert sweep["knee"]["level"] == 50
    assert found["warnings"]


def test_a_comparison_and_its_exit_status(write: Write, tmp_path: Path) -> None:
    a, b = write("a", closed(1)), write("b", closed(2, 0.85))
    for options, status in (((), 0), (("--fail-on-regression", 30), 0), (("--fail-on-regression", 5), 1)):
        done = invoke("diff", a, b, *options)
        assert done.exit_code == status, done.output
    assert "B is worse in throughput at 2 levels" in done.output
    assert "regression: throughput at concurrency 1 is worse by" in done.output
    assert "mind: one run a side" in done.output
    assert invoke("diff", b, a, "--fail-on-regression", 0).exit_code == 0, "better is no regression"
    done = invoke("diff", a, b, "--json", "--output", tmp_path / "page", "--fail-on-regression", 5)
    found = json.loads(done.output)
    assert done.exit_code == 1 and found["page"] == str(tmp_path / "page" / "diff.html")
    assert {cell["verdict"] for cell in found["figures"]} == {"worse"} and len(found["regressions"]) == 6


def test_several_runs_a_side(write: Write) -> None:
    sides = [
        [write(f"{side}{at}", closed(seed + at, speed)) for at in range(3)]
        for side, seed, speed in (("a", 0, 1.0), ("b", 10, 1.2))
    ]
    more = [
        part
        for name, side in zip("ab", sides, strict=True)
        for each in side[1:]
        for part in (f"--more-{name}", each)
    ]
    found = json.loads(invoke("diff", sides[0][0], sides[1][0], *more, "--json").output)
    assert found["judged_by"] == "runs"
    assert found["result"].startswith("B is better in throughput at 2 levels")


def test_other_requests_are_not_compared_unless_asked(write: Write) -> None:
    a, b = write("a", closed(1)), write("b", closed(2, length_mix="512:1", engine_threads=8))
    done = invoke("diff", a, b)
    assert isinstance(done.exception, UsageError)
    assert "length mix: 16:1 against 512:1" in done.exception.what
    done = invoke("diff", a, b, "--anyway")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[:2] == [
        "differs: length mix: 16:1 in A, 512:1 in B",
        "differs: engine threads: 2 in A, 8 in B",
    ]


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for path in (tmp_path, tmp_path / "nothing"):
        done = invoke("report", path)
        assert isinstance(done.exception, LoadTestError) and done.exception.mend
