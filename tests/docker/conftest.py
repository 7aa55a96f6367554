"""Runs the steps of a Dockerfile without Docker: the same COPYs and RUNs, below a folder of its own.

What it cannot stand in for is the base image: the interpreter and the system libraries are this machine's.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
# Where packages come from is the machine's matter; nothing else of the environment gets in.
_PASSED_ON = re.compile(r"PIP_.*|https?_proxy|no_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE", re.IGNORECASE)


@dataclass
class Stage:
    """One stage of a Dockerfile, played below `root`; `/opt` and the working folder lie in it."""

    root: Path
    context: Path
    tools: Path
    environment: dict[str, str]
    workdir: str = "/"
    instructions: list[dict[str, Any]] = field(default_factory=list)

    def path(self, inside: str) -> Path:
        """Where a path of the image lies."""
        return self.root / str(Path(self.workdir, inside)).lstrip("/")

    @property
    def python(self) -> Path:
        return self.path("/opt/venv/bin/python")

    def run(self, value: str) -> None:
        """Run a RUN line with its absolute paths moved below the root."""
        command = re.sub(r"--mount=\S+\s+", "", value)
        command = re.sub(r"(?<![\w.])/(opt|srv)/", rf"{self.root}/\1/", command)
        done = subprocess.run(
            ["/bin/sh", "-euc", command],
            cwd=self.path("."),
            env=self.environment | {"PATH": f"{self.tools}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {value}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"

    def copy(self, value: str) -> None:
        """Copy from the context, which holds only what .dockerignore lets in."""
        *sources, target = shlex.split(value)
        for source in sources:
            found = self.context / source
            assert found.exists(), f"COPY {value}: {source} is not in the context"
            to = self.path(target)
            if found.is_dir():
                shutil.copytree(found, to, dirs_exist_ok=True)
            else:
                into = to / found.name if target.endswith("/") else to
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, into)


def parse(name: str) -> list[dict[str, Any]]:
    """Instructions of a Dockerfile of this project, comments left out."""
    content = (DOCKER / name).read_bytes()
    structure = DockerfileParser(fileobj=io.BytesIO(content)).structure
    return [each for each in structure if each["instruction"] != "COMMENT"]


def stage_of(instructions: list[dict[str, Any]], alias: str | None) -> list[dict[str, Any]]:
    """Instructions of the stage named `alias`, or of the last one."""
    stages: list[list[dict[str, Any]]] = []
    for each in instructions:
        if each["instruction"] == "FROM":
            stages.append([])
        stages[-1].append(each)
    if alias is None:
        return stages[-1]
    return next(each for each in stages if each[0]["value"].endswith(f" AS {alias}"))


def play(name: str, alias: str | None, interpreter: Path, base: Path) -> Stage:
    """Play the WORKDIR, COPY and RUN lines of a stage in a clean environment."""
    stage = Stage(
        root=base / "root",
        context=_context(base / "context"),
        tools=_tools(base / "tools", interpreter),
        environment=_clean_environment(base / "home"),
        instructions=stage_of(parse(name), alias),
    )
    for each in stage.instructions:
        if each["instruction"] == "WORKDIR":
            stage.workdir = each["value"]
            stage.path(".").mkdir(parents=True, exist_ok=True)
        elif each["instruction"] == "COPY":
            stage.copy(each["value"])
        elif each["instruction"] == "RUN":
            stage.run(each["value"])
    return stage


def _context(target: Path) -> Path:
    """Copy the tracked files that .dockerignore (here: `*`, then exceptions) lets in."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to leave out what is not tracked")
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        path = Path(name)
        let_in = any(path.match(rule) or Path(rule) in path.parents for rule in allowed)
        if let_in and (ROOT / path).is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, target / path)
    return target


def _tools(folder: Path, interpreter: Path) -> Path:
    """`python`, `python3` and `pip` as the base image has them. pip itself is that of this environment."""
    folder.mkdir(parents=True)
    pip = f'exec {sys.executable} -m pip "$@"'
    scripts = {
        "pip": pip,
        "python": f'exec {interpreter} "$@"',
        "python3": f'if [ "$1 $2" = "-m pip" ]; then shift 2; {pip}; fi\nexec {interpreter} "$@"',
    }
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def _clean_environment(home: Path) -> dict[str, str]:
    home.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if _PASSED_ON.fullmatch(key)}
    settings = [Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]
    user_settings = next((str(path) for path in settings if path.is_file()), None)
    if user_settings and "PIP_CONFIG_FILE" not in environment:
        environment["PIP_CONFIG_FILE"] = user_settings
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=False
    )
    if cache.returncode == 0:
        environment["PIP_CACHE_DIR"] = cache.stdout.strip()
    return environment | {"HOME": str(home), "LANG": "C.UTF-8"}


def base_interpreter() -> Path:
    """The interpreter below this virtual environment."""
    return Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")


def installed(python: Path) -> dict[str, str]:
    """Version by lower-case name with dashes, as the interpreter's own metadata says."""
    code = (
        "import json, importlib.metadata as m;"
        "print(json.dumps({d.name.lower().replace('_', '-').replace('.', '-'): d.version"
        " for d in m.distributions()}))"
    )
    done = subprocess.run([str(python), "-Ic", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def cpu_stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The builder stage of Dockerfile.cpu, with its environment installed and slimmed."""
    return play("Dockerfile.cpu", "builder", base_interpreter(), tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="session")
def gpu_stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Dockerfile.gpu's environment on Python 3.12, the container's, where this machine has it."""
    candidates = [shutil.which("python3.12"), *Path.home().glob(".pyenv/versions/3.12.*/bin/python3.12")]
    works = (
        Path(each)
        for each in candidates
        if each and subprocess.run([each, "-c", ""], capture_output=True, check=False).returncode == 0
    )
    return play(
        "Dockerfile.gpu", "environment", next(works, base_interpreter()), tmp_path_factory.mktemp("gpu")
    )


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory, minilm_build_root: Path) -> dict[str, Path]:
    """A repository of recipes/minilm.yaml for each engine, built by this environment."""
    target = tmp_path_factory.mktemp("repositories")
    for engine in ("onnxruntime", "openvino"):
        command = [sys.executable, "-m", "tritonforge.cli", "build", str(ROOT / "recipes" / "minilm.yaml")]
        command += ["--engine", engine, "--repository", str(target / engine)]
        command += ["--build-dir", str(minilm_build_root)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return {path.name: path for path in target.iterdir()}


@pytest.fixture(scope="session")
def helpers() -> Any:
    """The functions above, as a test module cannot import this file."""
    return sys.modules[__name__]
