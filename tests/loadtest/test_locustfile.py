"""The locustfile, run by locust against a real server."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import loadtest
from tritonforge.server import TritonServer

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"


def locust(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run locust for some seconds; return its status, its table by protocol, and its output.

    The run is shorter than asked on a busy machine: locust counts the time that its imports took.
    """
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["-u", "6", "-r", "6", "-t", "3s", "--stop-timeout", "10", "--csv", str(folder / "run")]
    done = subprocess.run(
        [*command, *arguments],
        cwd=LOCUSTFILE.parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    with (folder / "run_stats.csv").open() as table:
        rows = {row["Type"]: row for row in csv.DictReader(table) if row["Type"]}
    return done.returncode, rows, done.stdout + done.stderr


def test_encoders_without_a_failure(server: TritonServer, tmp_path: Path) -> None:
    urls = ("--grpc-url", server.grpc_url, "--http-url", server.http_address)
    users = ("GrpcUser", "HttpUser")
    status, rows, output = locust(
        tmp_path, *users, *urls, "--model", "toy_embedder", "--texts-per-request", "3"
    )
    assert status == 0, output
    assert set(rows) == {"gRPC", "HTTP"}
    for row in rows.values():
        assert int(row["Request Count"]) >= 3
        assert int(row["Failure Count"]) == 0
        assert float(row["Average Content Size"]) == 3 * 8 * 4


def test_streams_have_rows_for_first_token_and_tokens(server: TritonServer, tmp_path: Path) -> None:
    status, rows, output = locust(
        tmp_path,
        *("GrpcStreamUser", "SseUser", "--task", "generation", "--tokens", "4", "--length-mix", "16"),
        LOADTEST_GRPC_URL=server.grpc_url,
        LOADTEST_HTTP_URL=server.http_address,
        LOADTEST_MODEL="toy_generator",
    )
    assert status == 0, output
    assert set(rows) == {"gRPC stream", "SSE", "first token", "token"}
    answers = sum(int(rows[protocol]["Request Count"]) for protocol in ("gRPC stream", "SSE"))
    assert int(rows["first token"]["Request Count"]) == answers > 0
    assert int(rows["token"]["Request Count"]) == 4 * answers
    assert rows["SSE"]["Name"] == "toy_generator"


def test_failures_are_reported(server: TritonServer, tmp_path: Path) -> None:
    urls = ("--grpc-url", server.grpc_url, "--http-url", server.http_address)
    status, rows, output = locust(tmp_path, "GrpcUser", "HttpUser", *urls, "--model", "absent")
    assert status == 1
    assert "unknown model" in output
    for row in rows.values():
        assert int(row["Failure Count"]) == int(row["Request Count"]) > 0
