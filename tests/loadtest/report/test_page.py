"""``report.html``, ``report.md`` and ``diff.html``: what they say, and that they stand alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtest.errors import LoadTestError
from loadtest.report import Objective, Slo, compare, read_runs, write_diff, write_report
from loadtest.report.page import diff_page, load_page
from loadtest.results import Latency, LoadRun, Sample
from tests.build_engines.report.conftest import read_page
from tests.loadtest.report.synthetic import Noise, mm1, point, run

HOSTILE = "<script>alert(1)</script> &"
FLAT = Latency(mean=10, p50=10, p90=10, p95=10, p99=10)
SLO = Slo((Objective("latency", "p99", 100.0),))


def whole(seed: int = 1, name: str = "toy", stream: bool = False) -> LoadRun:
    """A run with everything a report can show."""
    points = []
    for at, one in enumerate(mm1((10, 30, 50, 70, 90), noise=Noise(seed))):
        assert one.latency is not None
        times = one.latency.model_copy(update={"max": 2 * one.latency.p99})
        own = {"started": 1e9 + 65 * at, "latency": times, "stable": at != 4}
        points.append(
            one.model_copy(update=own | ({"first_token": times, "per_token": times} if stream else {}))
        )
    samples = [
        Sample(at=1e9 + at, queue_ms=1, compute_ms=3, batch=2, pending=1, cpu=1, memory_bytes=10**9)
        for at in range(330)
    ]
    options = {"task": "generation", "items_per_request": 64} if stream else {}
    return run(points, name, samples, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that streams: every plot there is."""
    page = write_report([whole(stream=True)], tmp_path_factory.mktemp("report") / "new" / "folder", SLO)
    assert page.name == "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.md"]
    lines = page.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("toy serves ")
    assert {line.count("|") for line in lines if line.startswith("|")} == {7}
    return page.read_text(encoding="utf-8")


def test_a_stranger_reads_the_result_and_where_it_was_measured_first(source: str) -> None:
    page = read_page(source)
    text = [part.strip() for part in page.text if part.strip()]
    result = next(at for at, part in enumerate(text) if part.startswith("toy serves "))
    assert " tokens/s) at p99 100 ms (95% interval " in text[result]
    assert "between Poisson rate 50/s, which keeps it, and Poisson rate 70/s" in text[result]
    assert text[result + 1].startswith(
        "Measured 2001-09-09 01:46 UTC by perf_analyzer over gRPC straight to "
    )
    assert result < text.index("Settings") < text.index("Latency against throughput", result + 20)
    assert page.row("Poisson rate 90/s")[-1] == "left out: the tool found it not steady"
    assert "knee" in page.row("Poisson rate 50/s")[-1]
    assert page.tags["svg"] == 2 * 5, "each plot for wide and for narrow pages"
    assert page.tags["details"] == 5, "a table for each"


def test_plots_say_what_they_show_and_follow_the_scheme(source: str) -> None:
    plots = source.split("<svg")[1:]
    assert len(plots) == 2 * 5
    for drawn in plots:
        drawn = drawn.split("</svg>")[0]
        assert 'role="img"' in drawn
        assert len(drawn.split("<desc")[1].split("</desc>")[0]) > 50
        assert "#0" not in drawn, "a color that no scheme changes"


def test_text_of_others_is_text(tmp_path: Path) -> None:
    failing = point(2, 9.0, None, requests=0, errors=3, error_kinds={HOSTILE: 3})
    twins = [run([point(1, 100.0, FLAT), failing], HOSTILE, engine=HOSTILE) for _ in range(2)]
    page = write_report(twins, tmp_path)
    source = page.read_text(encoding="utf-8")
    assert "<script" not in source
    assert any(HOSTILE in part for part in read_page(source).text)
    assert "<script>alert(1)</script> &)" not in page.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run([])], "toy answered at no level as it should."),
        ([run([point(1, 0.0, None, requests=0, errors=1)])], "toy answered at no level as it should."),
        ([run([point(1, 100.0, FLAT)])], "toy answered at most 100 requests/s, at concurrency 1,"),
    ],
)
def test_runs_that_show_little(runs: Sequence[LoadRun], said: str) -> None:
    page = read_page(load_page(runs))
    assert any(part.startswith(said) for part in page.text) or runs[0].points == ()


@pytest.mark.parametrize(
    ("limit", "tone", "said"),
    [
        (
            5.0,
            "bad",
            "toy keeps p99 5 ms at no level that was measured: at concurrency 1 already p99 is 10 ms.",
        ),
        (
            20.0,
            "good",
            "toy serves at least 100 requests/s at p99 20 ms: every level up to concurrency 1 keeps it",
        ),
    ],
)
def test_objectives_that_nothing_and_everything_keeps(limit: float, tone: str, said: str) -> None:
    source = load_page([run([point(1, 100.0, FLAT)])], Slo((Objective("latency", "p99", limit),)))
    assert f'class="headline {tone}"' in source
    assert any(part.startswith(said) for part in read_page(source).text)


def test_several_runs_are_told_apart() -> None:
    twins = [run(mm1((10, 30, 60)), name) for name in ("toy", "toy", "other")]
    page = read_page(load_page(twins, SLO))
    for name in ("toy 1", "toy 2", "other"):
        assert name in page.text
    assert sum("toy serves " in part for part in page.text) == 3


def test_a_page_is_named_or_its_folder(tmp_path: Path) -> None:
    small = [run([point(1, 100.0, FLAT)])]
    assert write_report(small, tmp_path / "named.html") == tmp_path / "named.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named.html", "named.md"]
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadTestError, match="cannot write the report") as caught:
        write_report(small, tmp_path / "file" / "folder")
    assert caught.value.mend


def test_a_comparison_says_what_differs_before_the_ratios(tmp_path: Path) -> None:
    other = run(whole(2).points, "other", engine_threads=8, corpus="other")
    found = compare([whole(1)], [other])
    source = diff_page(found)
    page = read_page(source)
    assert source.index("engine threads") < source.index("Ratio of B to A")
    assert page.row("corpus")[1:] == ["lee", "other", "another request"]
    rows = [row for row in page.rows if row and row[0].strip() == "Poisson rate 10/s"]
    assert [row[1].strip() for row in rows] == ["requests/s", "p50, ms", "p99, ms"]
    assert write_diff(found, tmp_path) == tmp_path / "diff.html"


def test_a_folder_may_hold_one_run_or_several(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(whole(name=name).model_dump_json(), encoding="utf-8")
    assert [one.name for one in read_runs(tmp_path)] == ["one", "two"]
    assert [one.name for one in read_runs(tmp_path / "two")] == ["two"]
    with pytest.raises(LoadTestError, match="cannot be read"):
        read_runs(tmp_path / "three")
