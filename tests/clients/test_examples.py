"""The example scripts, run as users run them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clients
from tritonforge.server import TritonServer

CLIENTS = Path(clients.__file__).parent


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"clients.examples.{script}", *arguments],
        cwd=CLIENTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("grpc_infer", ["embedding float32 (3, 8)", "1.    0.754"]),
        ("http_infer", ["embedding float32 (3, 8)", "1.    0.754"]),
        ("asyncio_infer", ["64 embeddings of 8 numbers"]),
        (
            "streaming",
            ["How do I reset my password?", "[0.025 0.072 0.98  0.948]", "The parcel arrived broken."],
        ),
        ("shared_memory", ["embedding float32 (3, 8)", "[0.025 0.072 0.98  0.948]"]),
    ],
)
def test_embedding_examples(server: TritonServer, script: str, says: list[str]) -> None:
    url = server.http_address if script == "http_infer" else server.grpc_url
    output = run(script, "--url", url, "--model", "toy_embedder")
    for text in says:
        assert text in output


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("generate_stream", ["Say é 漢字"], ["Say é 漢字\n(3 tokens, stop)"]),
        ("generate_http", ["Say é 漢字"], ["Say é 漢字\n(3 tokens, stop)"]),
        ("generate_many", ["--requests", "5"], ["The number 0 isThe number 0 is", "5 answers, "]),
    ],
)
def test_generation_examples(
    server: TritonServer, script: str, arguments: list[str], says: list[str]
) -> None:
    url = server.http_address if script == "generate_http" else server.grpc_url
    output = run(script, "--url", url, "--model", "toy_generator", *arguments)
    for text in says:
        assert text in output


def test_classify_example(server: TritonServer) -> None:
    output = run(
        "classify", "--url", server.grpc_url, "--model", "toy_classifier", "first text", "second text"
    )
    lines = output.splitlines()
    assert len(lines) == 2
    for line, text in zip(lines, ("first text", "second text"), strict=True):
        assert line.split()[0] in ("ham", "spam")
        assert 0.5 <= float(line.split()[1]) <= 1
        assert line.endswith(text)


def test_clients_import_only_tritonclient_and_numpy() -> None:
    allowed = {*sys.stdlib_module_names, "tritonclient", "numpy", "clients"}
    for path in CLIENTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in allowed, f"{path}: imports {name}"


def test_examples_are_short() -> None:
    for path in (CLIENTS / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 55, path
