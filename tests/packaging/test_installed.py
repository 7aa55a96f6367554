"""The wheel in an empty environment: from an empty folder to an answer, the checkout out of reach."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Reference, TinyModel
from tests.packaging.conftest import Distributions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TEXTS = ("How do I reset my password?", "Where is my parcel?")


class Shell:
    """Runs the installed command in one folder."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        left_out = ("PYTHONPATH", "VIRTUAL_ENV", "TRITONFORGE_TEST_BUILD")
        self.environment = {key: value for key, value in os.environ.items() if key not in left_out}
        self.environment["PATH"] = f"{binaries}{os.pathsep}/usr/bin{os.pathsep}/bin"

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (
            f"{program} {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        )
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run("tritonforge", *arguments, "--json"))


@pytest.fixture(scope="module")
def shell(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(installed, tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def built(shell: Shell, tiny_model: TinyModel) -> str:
    """Name of a model that the installed commands made a recipe of and built."""
    made = shell.json("recipe", "new", str(tiny_model("bert")), "--name", "tiny")
    assert made["recipe"] == "tiny.yaml"
    report = shell.json("build", "tiny.yaml", "--engine", "onnxruntime", "--set", "threads.engine=1")
    assert report["recipe"]["name"] == "tiny"
    return "tiny"


@pytest.fixture(scope="module")
def served(shell: Shell, built: str) -> Iterator[dict[str, Any]]:
    """What `tritonforge serve --json` says of itself."""
    command = [str(shell.binaries / "tritonforge"), "serve", "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    said = shell.folder / "serve.json"
    with said.open("w") as out, (shell.folder / "serve.log").open("w") as log:
        server = subprocess.Popen(command, cwd=shell.folder, env=shell.environment, stdout=out, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while not said.read_text().rstrip().endswith("}") and server.poll() is None:
            assert time.monotonic() < deadline, "the server did not get ready"
            time.sleep(0.2)
        assert server.poll() is None, (shell.folder / "serve.log").read_text()[-3000:]
        yield json.loads(said.read_text())
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=60)
    assert status == 0


def test_nothing_of_the_checkout_is_imported(shell: Shell) -> None:
    packages = ("tritonforge", "build_engines", "python_backends", "clients", "gateway", "deploy")
    code = f"import importlib\nfor p in {packages!r}: print(importlib.import_module(p).__file__)"
    origins = shell.run("python", "-c", code).splitlines()
    site = shell.binaries.parent / "lib"
    assert [Path(origin).is_relative_to(site) for origin in origins] == [True] * len(packages)


def test_what_was_installed_agrees_with_itself(shell: Shell) -> None:
    assert shell.run("pip", "check").strip() == "No broken requirements found."
    doctor = shell.json("doctor", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    assert [check for check in doctor["checks"] if check["status"] == "fail"] == []


def test_a_missing_extra_is_named_as_a_wheel_gets_it(shell: Shell) -> None:
    done = subprocess.run(
        [str(shell.binaries / "tritonforge"), "gateway", "--open"],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install 'tritonforge[gateway]==" in done.stderr


@pytest.mark.parametrize("target", ["compose", "ecs", "helm", "kserve"])
def test_each_target_is_rendered_from_the_wheel_as_from_the_checkout(
    shell: Shell, built: str, target: str, distributions: Distributions
) -> None:
    arguments = ["deploy", "render", "--target", target, "--no-calibrate", f"{built}.yaml"]
    arguments += ["--source", "s3://models/tiny.tar", "--sha256", "0" * 64, "--output"]
    shell.run("tritonforge", *arguments, f"{target}-wheel")
    ours = [sys.executable, "-m", "tritonforge.cli", *arguments, f"{target}-checkout"]
    here = os.environ | {"PYTHONPATH": str(distributions.source)}  # the files that the wheel was made of
    done = subprocess.run(ours, cwd=shell.folder, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert texts(shell.folder / f"{target}-wheel") == texts(shell.folder / f"{target}-checkout") != {}


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_served_answers_are_those_of_transformers(
    shell: Shell, built: str, served: dict[str, Any], tiny_model: TinyModel, transformers_answer: Reference
) -> None:
    found = shell.json("predict", built, *TEXTS, "--url", served["grpc"])
    assert np.allclose(vectors(found), transformers_answer(tiny_model("bert"), TEXTS), atol=1e-4)


def vectors(found: dict[str, Any]) -> Sequence[Sequence[float]]:
    return [answer["embedding"] for answer in found["answers"]]
