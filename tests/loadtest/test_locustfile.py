"""The locustfile, run by locust against a real server."""

from __future__ import annotations

from pathlib import Path

from tests.loadtest.locust_command import locust
from tritonforge.server import TritonServer


def test_encoders_without_a_failure(server: TritonServer, tmp_path: Path) -> None:
    urls = ("--grpc-url", server.grpc_url, "--http-url", server.http_address)
    users = ("GrpcUser", "HttpUser")
    command = (*users, *urls, "--model", "toy_embedder", "--texts-per-request", "3")
    status, rows, output = locust(tmp_path, *command, kinds=("gRPC", "HTTP"), least=3)
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
        kinds=("gRPC stream", "SSE"),
    )
    assert status == 0, output
    assert set(rows) == {"gRPC stream", "SSE", "first token", "token"}
    answers = sum(int(rows[protocol]["Request Count"]) for protocol in ("gRPC stream", "SSE"))
    assert int(rows["first token"]["Request Count"]) == answers > 0
    assert int(rows["token"]["Request Count"]) == 4 * answers
    assert rows["SSE"]["Name"] == "toy_generator"


def test_failures_are_reported(server: TritonServer, tmp_path: Path) -> None:
    urls = ("--grpc-url", server.grpc_url, "--http-url", server.http_address)
    status, rows, output = locust(
        tmp_path, "GrpcUser", "HttpUser", *urls, "--model", "absent", kinds=("gRPC", "HTTP")
    )
    assert status == 1
    assert "unknown model" in output
    for row in rows.values():
        assert int(row["Failure Count"]) == int(row["Request Count"]) > 0
