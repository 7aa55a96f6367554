"""The hooks before a commit: what `make lint` runs, at the versions of the lock, and they do run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".pre-commit-config.yaml"
PRE_COMMIT = Path(sys.executable).parent / "pre-commit"


@pytest.fixture(scope="module")
def hooks() -> dict[str, dict[str, Any]]:
    (repository,) = yaml.safe_load(CONFIG.read_text())["repos"]
    assert repository["repo"] == "local"
    return {hook["id"]: hook for hook in repository["hooks"]}


def test_the_configuration_is_valid() -> None:
    done = subprocess.run([PRE_COMMIT, "validate-config", CONFIG], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_versions_are_those_of_the_lock(hooks: dict[str, dict[str, Any]]) -> None:
    locked = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    )
    pinned = [
        Requirement(each) for hook in hooks.values() for each in hook.get("additional_dependencies", ())
    ]
    assert {need.name for need in pinned} == {"ruff", "check-jsonschema", "zizmor"}
    assert {need.name: str(need.specifier) for need in pinned} == {
        need.name: f"=={locked[need.name]}" for need in pinned
    }
    # mypy must see what is installed, so it is the lock's by coming from the environment made of it.
    assert hooks["mypy"]["entry"] == ".venv/bin/mypy"


def test_all_of_make_lint_is_there(hooks: dict[str, dict[str, Any]]) -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    tools = set(re.findall(r"\$\(BIN\)/(ruff check|ruff format|mypy)", recipe[1]))
    assert tools == {"ruff check", "ruff format", "mypy"}
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks.values()]
    assert all(any(entry.startswith(tool) for entry in entries) for tool in tools)


@pytest.mark.slow
def test_a_commit_with_a_fault_is_refused_and_a_good_one_is_not(tmp_path: Path) -> None:
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {
        "PRE_COMMIT_HOME": str(tmp_path / "hooks"),
        "SKIP": "mypy,version",
    }  # these want our .venv
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull}

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    assert git("init", "--quiet").returncode == 0
    installed = subprocess.run([PRE_COMMIT, "install"], cwd=tmp_path, env=environment, capture_output=True)
    assert installed.returncode == 0, installed.stderr
    module = tmp_path / "module.py"
    module.write_text('"""A module."""\n\nVALUE = undefined_name\n')
    git("add", "module.py")
    refused = git("commit", "-m", "bad")
    assert refused.returncode == 1
    assert "F821" in refused.stdout + refused.stderr
    module.write_text('"""A module."""\n\nVALUE = 1\n')
    git("add", "module.py")
    taken = git("commit", "-m", "good")
    assert taken.returncode == 0, taken.stdout + taken.stderr
