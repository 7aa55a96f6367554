"""``tritonforge tune`` with real servers and the real perf_analyzer, on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from build_engines.pipeline import any_context, build
from loadtest.perf_analyzer.install import install
from loadtest.tune.published import find_model_of
from tritonforge.cli import app
from tritonforge.errors import RepositoryError, UsageError
from tritonforge.recipe import dump_recipe, load_recipe

# So long a wait that to take it away is a gain on any machine.
SLOW = "batching.max_queue_delay_us=100000"


@pytest.fixture(scope="module")
def tiny(
    tiny_build: Callable[[str, str], Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A recipe that is built, with comments; and the options that find it."""
    context = tiny_build("bert", "embedding").context
    path = tmp_path_factory.mktemp("tune") / "tiny.yaml"
    path.write_text(f"# Small.\n{dump_recipe(context.recipe)}# The end.\n")
    return path, ["--repository", str(context.repository), "--build-dir", str(context.build_dir.parent)]


@pytest.fixture(scope="module")
def tool() -> None:
    """perf_analyzer, installed unless it is there."""
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        pytest.skip("perf_analyzer is installed on Debian and Ubuntu only")
    install()


def test_a_tuned_recipe_is_what_was_measured(
    tiny: tuple[Path, list[str]], tool: None, tmp_path: Path
) -> None:
    recipe, where = tiny
    output = tmp_path / "better.yaml"
    result = CliRunner().invoke(
        app,
        [
            *("tune", str(recipe), *where, "--set", SLOW, "--concurrency", "2", "--seconds", "0.3"),
            *(
                "--method",
                "grid",
                "--seed",
                "1",
                "--trials",
                "2",
                "--rounds",
                "2",
                "--force",
                "--output",
                str(output),
            ),
            *("--search", "batching.max_queue_delay_us=0", "--search", "threads.engine=1,10000000000"),
        ],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 0, result.output

    folder = Path(where[3]) / "tune" / "bert-embedding"
    tuning = json.loads((folder / "trials.json").read_text())
    by_settings = {
        (t["settings"]["batching.max_queue_delay_us"], t["settings"]["threads.engine"]): t
        for t in tuning["trials"]
    }
    assert by_settings[100000, 1]["number"] == 0
    assert by_settings[0, 1]["ratio"] > 1.5
    assert {t["status"] for (_, threads), t in by_settings.items() if threads > 1} == {"failed"}
    assert "bert-embedding_engine" in by_settings[0, 10000000000]["error"]
    assert tuning["winner"] == {"batching.max_queue_delay_us": 0}
    assert len(tuning["verdict"]["pairs"]) == 2 and tuning["verdict"]["ratio"] > 1.5
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert "confidence interval" in result.output
    assert "confidence interval" in (folder / "report.html").read_text()

    # The default of the file has no delay: what differs from it is the engine that was measured.
    text = output.read_text()
    assert text.startswith("# Small.\n") and text.endswith("# The end.\n")
    tuned = load_recipe(output)
    assert tuned.batching.max_queue_delay_us == 0
    assert tuned.engine == tuning["engine"]
    assert load_recipe(recipe).engine == "auto"


@pytest.mark.parametrize("stages", ["separate", "fused"])
def test_a_trial_is_served_as_the_build_would(
    tiny: tuple[Path, list[str]], tmp_path: Path, stages: str
) -> None:
    recipe, (_, repository, _, build_root) = tiny
    changed = ["batching.max_queue_delay_us=700", "instances.engine=2", "batching.preferred_batch_sizes=[8]"]
    changed.append(f"stages={stages}")
    loaded = load_recipe(recipe)
    model = find_model_of(loaded, recipe, Path(repository), Path(build_root))
    other = load_recipe(recipe, [*changed, f"engine={model.engine}", f"precision={model.precision}"])
    build(any_context(other, recipe, tmp_path / "built", Path(build_root)))
    with model.repository(other, tmp_path) as trial:
        names = sorted(path.name for path in trial.iterdir())
        assert names == sorted(path.name for path in (tmp_path / "built").iterdir())
        for name in names:
            files = {path.relative_to(trial / name) for path in (trial / name).rglob("*") if path.is_file()}
            built = tmp_path / "built" / name
            assert files == {path.relative_to(built) for path in built.rglob("*") if path.is_file()}
            for file in files - {Path("tritonforge.json")}:
                assert (trial / name / file).read_bytes() == (built / file).read_bytes(), (name, file)
    assert not trial.exists()
    # And the other way round: what is published may be either.
    again = find_model_of(other, recipe, tmp_path / "built", Path(build_root))
    with again.repository(model.recipe, tmp_path) as back, model.repository(model.recipe, tmp_path) as same:
        files = {path.relative_to(back) for path in back.rglob("*") if path.is_file()}
        assert files == {path.relative_to(same) for path in same.rglob("*") if path.is_file()}


def test_ctrl_c_keeps_the_trials(tiny: tuple[Path, list[str]], tool: None, tmp_path: Path) -> None:
    recipe, (_, repository, _, build_root) = tiny
    shutil.copytree(Path(build_root) / "bert-embedding", tmp_path / "bert-embedding", symlinks=True)
    command = [sys.executable, "-m", "tritonforge.cli", "tune", str(recipe), "--repository", repository]
    command += ["--build-dir", str(tmp_path), "--concurrency", "2", "--seconds", "0.3", "--trials", "50"]
    trials = tmp_path / "tune" / "bert-embedding" / "trials.json"
    with (tmp_path / "output").open("wb") as sink:
        tune = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            env=os.environ | {"COLUMNS": "200"},
            # A shell has its background jobs ignore it, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    deadline = time.monotonic() + 400
    try:
        while not trials.is_file() and tune.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        servers = psutil.Process(tune.pid).children(recursive=True)
        tune.send_signal(signal.SIGINT)
        status = tune.wait(120)
    finally:
        tune.kill()
    output = (tmp_path / "output").read_text()
    assert status == 1, output
    assert "interrupted" in output and "Traceback" not in output
    kept = json.loads(trials.read_text())
    assert kept["ended"] == "interrupted"
    assert kept["trials"][0]["status"] == "measured"
    assert kept["verdict"] is None
    assert (trials.parent / "report.html").is_file()
    assert [path.name for path in trials.parent.iterdir() if path.name.startswith(".")] == []
    assert not psutil.wait_procs(servers, timeout=120)[1], "a server was left"
    assert not recipe.with_suffix(".tuned.yaml").exists()


def test_what_is_not_built_is_said_with_the_command(tiny: tuple[Path, list[str]], tmp_path: Path) -> None:
    recipe, _ = tiny
    with pytest.raises(RepositoryError, match="not built yet") as caught:
        find_model_of(load_recipe(recipe), recipe, tmp_path, tmp_path)
    assert f"tritonforge build {recipe}" in (caught.value.mend or "")


def test_another_recipe_than_was_built_is_refused(tiny: tuple[Path, list[str]]) -> None:
    recipe, (_, repository, _, build_root) = tiny
    other = load_recipe(recipe, ["max_length=32", "engine=tensorrt", "batching.token_budget=512"])
    with pytest.raises(RepositoryError, match="max_length, engine differ"):
        find_model_of(other, recipe, Path(repository), Path(build_root))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--in-place", "--output", "x.yaml"], "exclude each other"),
        (["--concurrency", "1,x"], "positive numbers"),
        (["--objective", "latency", "--concurrency", "4"], "one request in flight"),
        (["--search", "threads.engine="], "KEY=V,V"),
        (["--search", "threads.engine=fast"], "no value of threads.engine"),
        (["--search", "threads.engine=[1"], "not YAML"),
        (["--search", "queue.max_size=1"], "not searched"),
        (["--search", "threads.engine=1"], "nothing to search"),
        (["--length-mix", "long"], "length mix"),
    ],
)
def test_options_that_make_no_sense(tiny: tuple[Path, list[str]], options: list[str], message: str) -> None:
    recipe, where = tiny
    result = CliRunner().invoke(app, ["tune", str(recipe), *where, *options])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_threads_set_from_outside_would_spoil_it(
    tiny: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONFORGE_ENGINE_THREADS", "1")
    result = CliRunner().invoke(app, ["tune", str(tiny[0]), *tiny[1]])
    assert isinstance(result.exception, UsageError)
    assert "overrides the threads" in str(result.exception)


def test_a_generators_config_is_written_from_the_recipe_too(
    tiny_generation_repository: Path, tmp_path: Path
) -> None:
    manifest = json.loads((tiny_generation_repository / "tinygen" / "tritonforge.json").read_text())
    path = tmp_path / "tinygen.yaml"
    path.write_text(yaml.safe_dump(manifest["build"]["recipe"]))
    model = find_model_of(load_recipe(path), path, tiny_generation_repository, tmp_path)
    published = tiny_generation_repository / "tinygen"
    with model.repository(model.recipe, tmp_path) as trial:
        assert (trial / "tinygen" / "config.pbtxt").read_text() == (published / "config.pbtxt").read_text()
        version = published / str(manifest["version"])
        for file in version.iterdir():
            assert (trial / "tinygen" / "1" / file.name).exists() or file.name == "__pycache__"
    fewer = load_recipe(path, ["generation.max_num_seqs=2"])
    with model.repository(fewer, tmp_path) as trial:
        config = (trial / "tinygen" / "config.pbtxt").read_text()
    assert 'string_value: "1024"' in config, "the KV cache is sized by the number of sequences"
