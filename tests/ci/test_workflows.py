"""GitHub's workflows: the same as `.ci/run`, valid, and with no more rights than they need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / name).read_text()
    loaded: dict[str, Any] = yaml.load(text, yaml.BaseLoader)  # else `on` is read as true
    return loaded


def check(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_ci_runs_what_anyone_runs_and_nothing_else() -> None:
    (job,) = load("ci.yml")["jobs"].values()
    assert "env" not in job and "strategy" not in job and "services" not in job
    steps = job["steps"]
    used = [step["uses"].partition("@")[0] for step in steps if "uses" in step]
    assert used == ["actions/checkout"]
    # Git refuses the runner's folder to another user; nothing is set up beyond that.
    trust = 'git config --global --add safe.directory "$GITHUB_WORKSPACE"'
    assert [step["run"] for step in steps if "run" in step] == [trust, ".ci/run"]
    assert not any("if" in step or "env" in step or "continue-on-error" in step for step in steps)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_runs_for_every_change_that_may_land() -> None:
    triggers = load("ci.yml")["on"]
    assert triggers["push"] == {"branches": ["main"]}
    assert triggers["pull_request"] == ""  # no filter of paths or branches
    assert "pull_request_target" not in triggers


def test_the_system_is_that_of_the_images_and_of_the_lock() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile.cpu").read_text()
    base = re.search(r"^FROM python:([\d.]+)-slim-(\w+)", dockerfile, re.MULTILINE)
    assert base is not None
    jobs = load("ci.yml")["jobs"] | load("release.yml")["jobs"]
    images = {job["container"]["image"] for job in jobs.values() if "container" in job}
    assert images == {f"python:{base[1]}-{base[2]}"}
    header = (ROOT / "requirements.lock").read_text().partition("\n")[0]
    assert f"Python {'.'.join(base[1].split('.')[:2])}." in header


def test_what_is_released_was_tested_attested_and_then_published() -> None:
    jobs = load("release.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert [jobs[name]["needs"] for name in ("build", "attest", "publish", "announce")] == [
        "test",
        "build",
        "attest",
        "publish",
    ]
    assert not any("if" in job for job in jobs.values())


def test_only_tags_of_versions_are_released() -> None:
    (pattern,) = load("release.yml")["on"]["push"]["tags"]
    matches = re.compile(
        pattern.replace(".", r"\.")
    )  # of GitHub's globs, `[0-9]+` is as in a regular expression
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert matches.fullmatch(f"v{version}")
    assert (
        not matches.fullmatch("v1.0")
        and not matches.fullmatch("1.0.0")
        and not matches.fullmatch("v1.0.0rc1")
    )


def test_no_job_holds_more_rights_than_its_work_needs() -> None:
    rights = {}
    for path in WORKFLOWS:
        workflow = load(path.name)
        assert workflow["permissions"] == {}
        for name, job in workflow["jobs"].items():
            rights[path.stem, name] = {each for each, kind in job["permissions"].items() if kind == "write"}
    assert {key: found for key, found in rights.items() if found} == {
        ("release", "attest"): {"id-token", "attestations"},
        ("release", "publish"): {"id-token"},
        ("release", "announce"): {"contents"},
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_commits_and_say_the_version(path: Path) -> None:
    uses = re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(), re.MULTILINE)
    others = [line for line in uses if not line.startswith("./")]
    assert others
    for line in others:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_are_shell(path: Path) -> None:
    for job in load(path.name)["jobs"].values():
        for step in job.get("steps", ()):
            if script := step.get("run"):
                assert "${{" not in script, "an expression in a script is an injection"
                done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr


def test_workflows_fit_their_schema() -> None:
    done = check(
        "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *[str(path) for path in WORKFLOWS]
    )
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    done = check("zizmor", "--offline", "--no-progress", ".github/workflows")
    assert done.returncode == 0, done.stdout
    assert "No findings to report" in done.stdout


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(
        "on: pull_request_target\njobs:\n  x:\n    runs-on: ubuntu-24.04\n    steps:\n"
        "      - uses: actions/checkout@v4\n      - run: echo ${{ github.event.pull_request.title }}\n"
    )
    found = check("zizmor", "--offline", "--no-progress", str(bad)).stdout
    assert "dangerous-triggers" in found and "template-injection" in found
    bad.write_text("on: push\njobs:\n  x:\n    steps: []\n")
    assert check("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(bad)).returncode == 1
