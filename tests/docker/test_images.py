from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TEXT = "How do I reset my password?"
# glibc and what else the base image's python links to; it has nothing more that a wheel may count on.
BASE_LIBRARIES = re.compile(
    r"(linux-vdso|ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libutil|libstdc\+\+|libgcc_s|libz"
    r"|libpython3\.\d+)\.so[.\d]*"
)
# What the base stage installs on top, by the package that holds it.
ADDED_LIBRARIES = {"libexpat.so.1": "libexpat1"}


def runtime_environment(helpers: Any, stage: Any, home: Path) -> dict[str, str]:
    """Variables that the image sets, with paths below the stage's root."""
    environment = {"PATH": "/usr/bin:/bin"}
    for alias in ("base", "runtime"):
        for each in helpers.stage_of(helpers.parse("Dockerfile.cpu"), alias):
            if each["instruction"] == "ENV":
                for pair in each["value"].split():
                    key, _, value = pair.partition("=")
                    value = value.replace("$PATH", environment["PATH"])
                    value = str(home) if value == "/tmp" else value
                    environment[key] = value.replace("/opt/venv", str(stage.path("/opt/venv")))
    return environment


@contextmanager
def serving(
    helpers: Any, stage: Any, repository: Path, home: Path
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any], dict[str, str]]]:
    """The image's ENTRYPOINT, on free loopback ports."""
    home.mkdir()
    environment = runtime_environment(helpers, stage, home)
    entry = next(
        each["value"] for each in helpers.parse("Dockerfile.cpu") if each["instruction"] == "ENTRYPOINT"
    )
    moved = {"0.0.0.0": "127.0.0.1", "/models": str(repository)}
    program, *arguments = [moved.get(word, word) for word in json.loads(entry)]
    command = [str(stage.path(f"/opt/venv/bin/{program}")), *arguments, "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log_path = home / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=log, text=True
        )
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if line.startswith("}"):
                    break
            assert printed.rstrip().endswith("}"), log_path.read_text()[-3000:]
            watchdog.cancel()
            yield process, json.loads(printed), environment
        finally:
            watchdog.cancel()
            process.terminate()
            process.wait(60)


def embed(base_url: str, text: str) -> np.ndarray[Any, Any]:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}
    body["outputs"] = [{"name": "embedding"}]
    request = urllib.request.Request(f"{base_url}/v2/models/minilm/infer", json.dumps(body).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        output = json.load(response)["outputs"][0]
    return np.asarray(output["data"], np.float32).reshape(output["shape"])


def healthcheck(helpers: Any, stage: Any, environment: dict[str, str], port: str) -> int:
    return subprocess.run(
        [str(stage.python), str(helpers.DOCKER / "healthcheck.py")],
        env=environment | {"TRITONFORGE_HTTP_PORT": port},
        capture_output=True,
        check=False,
    ).returncode


def listing(repository: Path) -> list[tuple[str, int]]:
    """Files and their times; not bytecode, which Triton's stub writes where it may (it ignores PYTHON*)."""
    paths = (path for path in repository.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sorted((str(path), path.stat().st_mtime_ns) for path in paths)


@pytest.mark.slow
def test_cpu_environment_holds_locked_serving_packages_only(helpers: Any, cpu_stage: Any) -> None:
    found = helpers.installed(cpu_stage.python)
    lines = (helpers.ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    assert {name: locked.get(name) for name in found if name != "tritonforge"} == {
        name: version for name, version in found.items() if name != "tritonforge"
    }
    assert {"nvidia-pytriton", "onnxruntime", "openvino", "tokenizers", "tritonforge"} <= found.keys()
    assert not {"torch", "transformers", "tritonclient", "pip"} & found.keys()
    code = "import tritonforge, tritonforge.cli, build_engines, python_backends"
    subprocess.run([str(cpu_stage.python), "-Ic", code], check=True)


@pytest.mark.slow
def test_cpu_environment_finds_its_system_libraries(helpers: Any, cpu_stage: Any) -> None:
    venv = cpu_stage.path("/opt/venv")
    files = [path for path in venv.rglob("*") if path.is_file() and not path.is_symlink()]
    with_elf = []
    for path in files:
        with path.open("rb") as file:
            if file.read(4) == b"\x7fELF":
                with_elf.append(str(path))
    assert len(with_elf) > 50
    done = subprocess.run(["ldd", *with_elf], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("\t")]
    names = {Path(line.split()[0]).name for line in lines if line != "statically linked"}
    # Wheels load what they bring by a path of their own, which ldd does not always know.
    needed = {name for name in names if ".so" in name} - {path.name for path in files}
    assert "libc.so.6" in needed, done.stderr
    base = helpers.stage_of(helpers.parse("Dockerfile.cpu"), "base")
    apt = " ".join(each["value"] for each in base if "apt-get install" in each["value"])
    missing = {name for name in needed if not BASE_LIBRARIES.fullmatch(name)}
    added = {name for name, package in ADDED_LIBRARIES.items() if f"'{package}=" in apt}
    assert missing == added


@pytest.mark.slow
def test_doctor_is_content_in_the_cpu_environment(helpers: Any, cpu_stage: Any, tmp_path: Path) -> None:
    environment = runtime_environment(helpers, cpu_stage, tmp_path)
    command = [str(cpu_stage.path("/opt/venv/bin/tritonforge")), "doctor", "--json"]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"] is True


@pytest.mark.slow
def test_the_cpu_image_serves_both_engines_and_writes_nothing_into_the_repository(
    helpers: Any, cpu_stage: Any, repositories: dict[str, Path], tmp_path: Path
) -> None:
    vectors = {}
    for engine, repository in repositories.items():
        before = listing(repository)
        with serving(helpers, cpu_stage, repository, tmp_path / engine) as (process, ready, environment):
            vectors[engine] = embed(ready["http"], TEXT)
            port = ready["http"].rpartition(":")[2]
            assert healthcheck(helpers, cpu_stage, environment, port) == 0
            process.terminate()
            assert process.wait(60) == 0
            assert healthcheck(helpers, cpu_stage, environment, port) == 1
        assert listing(repository) == before
    first, second = vectors["onnxruntime"], vectors["openvino"]
    assert first.shape == (1, 384)
    np.testing.assert_allclose(np.linalg.norm(first), 1.0, atol=1e-5)
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.slow
def test_the_gpu_environment_runs_the_backends(
    helpers: Any, gpu_stage: Any, repositories: dict[str, Path], tmp_path: Path
) -> None:
    found = helpers.installed(gpu_stage.python)
    assert not {"nvidia-pytriton", "torch", "transformers"} & found.keys()
    assert found["numpy"].startswith("1.")
    code = """
import sys
from pathlib import Path
import numpy as np
from python_backends.runners import OnnxRuntimeRunner, OpenVinoRunner
from tokenizers import Tokenizer
import tritonforge.cli
folder = Path(sys.argv[1])
tokenizer = Tokenizer.from_file(str(next(folder.glob("onnxruntime/minilm_tokenizer/*/tokenizer.json"))))
ids = tokenizer.encode("hi").ids
inputs = {
    "input_ids": np.array(ids, np.int32),
    "cu_seqlens": np.array([0, len(ids)], np.int32),
    "max_seqlen": np.zeros(len(ids), np.int32),
}
onnx = OnnxRuntimeRunner(next(folder.glob("onnxruntime/minilm_engine/*/model.onnx"))).run(inputs)
ir = OpenVinoRunner(next(folder.glob("openvino/minilm_engine/*/model.xml"))).run(inputs)
assert onnx["embedding"].shape == (1, 384)
np.testing.assert_allclose(onnx["embedding"], ir["embedding"], atol=1e-4)
"""
    folder = repositories["onnxruntime"].parent
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(gpu_stage.python), "-c", code, str(folder)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
