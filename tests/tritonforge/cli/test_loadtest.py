"""The command, with short runs against a real server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loadtest.perf_analyzer.install import DEFAULT_CACHE
from loadtest.results import read_run
from tritonforge.cli import app
from tritonforge.errors import TritonForgeError
from tritonforge.server import ServerOptions, TritonServer

TOY = Path(__file__).parents[2] / "clients" / "toy_repository"
SHORT = ("--duration", "1.2", "--warm-up", "0.3", "--stability-percent", "10000")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "repository"
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = tmp_path_factory.mktemp("log") / "toy.log"
    with log.open("wb") as sink, TritonServer(repository, options, log_sink=sink) as toy:
        yield toy


def load(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["loadtest", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def refused(*arguments: str) -> TritonForgeError:
    with pytest.raises(TritonForgeError) as caught:
        CliRunner().invoke(app, ["loadtest", *arguments], catch_exceptions=False)
    assert caught.value.mend
    return caught.value


@pytest.mark.skipif(
    not (Path(__file__).parents[3] / DEFAULT_CACHE).exists(), reason="its own tests install it"
)
def test_perf_analyzer_in_one_command(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    where = ("--repository", str(repository), "--model", "toy_embedder", "--output", str(tmp_path / "out"))
    done = load(*where, "--concurrency", "1,2", "--slo-p99-ms", "60000", *SHORT)
    assert "toy_embedder serves at least" in done.output
    assert (tmp_path / "out" / "report.html").is_file()
    run = read_run(tmp_path / "out")
    assert [point.level for point in run.points] == [1, 2]
    assert run.name == "toy_embedder-perf_analyzer-triton-grpc"
    assert run.samples
    for word in ("--concurrency 1,2", "--slo-p99-ms 60000.0", f"--repository {repository}"):
        assert word in run.setting.command
    assert (tmp_path / "out" / "server.log").stat().st_size > 0


def test_locust_on_a_running_server(server: TritonServer, tmp_path: Path) -> None:
    where = ("--url", f"http://{server.http_address}", "--target", "triton-http", "--output", str(tmp_path))
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\n\nanother text\nand a third\n", encoding="utf-8")
    arguments = ["--tool", "locust", "--model", "toy_classifier", "--shape", "spike", "--users", "1,3"]
    arguments += ["--processes", "2", "--texts-file", str(texts), "--texts-per-request", "2"]
    found = json.loads(load(*where, *arguments, *SHORT, "--json").stdout)
    assert [point["level"] for point in found["points"]] == [1, 3, 1]
    assert sum(point["requests"] for point in found["points"]) > 0  # a level of a second may answer none
    for point in found["points"]:
        assert point["errors"] == 0
        assert point["items_per_second"] == pytest.approx(2 * point["requests_per_second"])
    assert found["results"][0].startswith("toy_classifier answered at most")
    run = read_run(Path(found["run"]))
    for before, after in pairwise(run.points):
        assert after.started >= before.started + before.seconds
    assert (run.setting.url, run.setting.corpus) == (server.http_address, "texts.txt")
    assert any(sample.memory_bytes and sample.batch == 2 for sample in run.samples)


def test_an_unknown_model_is_said(repository: Path, server: TritonServer, tmp_path: Path) -> None:
    where = ("--output", str(tmp_path / "out"))
    assert "unknown model" in refused("--url", server.grpc_url, "--model", "absent", *where).what
    assert "absent" in refused("--repository", str(repository), "--model", "absent", *where).what
    assert "nobody answers" in refused("--url", "127.0.0.1:9", "--model", "m", *where).what


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "rest"), "Triton only"),
        (("--request-rate", "5", "--concurrency", "5"), "either"),
        (("--request-rate", "5:1"), "not levels"),
        (("--concurrency", "1.5"), "whole"),
        (("--shape", "soak"), "no use for it"),
        (("--tool", "locust", "--request-rate", "5"), "no use for it"),
        (("--tool", "locust", "--shape", "soak", "--users", "1,2"), "1 number"),
        (("--url", "h:1", "--engine-threads", "2"), "runs already"),
        (("--name", "../x"), "name of a folder"),
        (("--token-file", "absent"), "cannot be read"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    error = refused(*arguments, "--output", str(tmp_path / "out"))
    assert said in error.what
    assert error.exit_code == 2
    assert not (tmp_path / "out").exists()
