"""Floods, large bodies, slow and silent callers, and an upstream that does not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.gateway.envoy import raw
from tests.gateway.envoy.echo_door import EchoDoor, echo_door, mint
from tests.gateway.envoy.test_door import problem

MAX_BODY = 100_000
CONNECTIONS = 20


@pytest.fixture(scope="module")
def narrow() -> Iterator[EchoDoor]:
    """Small limits and short times."""
    with echo_door(
        listen={"headers_timeout_s": 0.5, "idle_timeout_s": 1.5, "trusted_hops": 1},
        limits={
            "local": {"per_second": 2, "burst": 5},
            "address": {"per_second": 5, "burst": 40},
            "max_body_bytes": MAX_BODY,
            "max_connections": CONNECTIONS,
        },
        resilience={"request_timeout_s": 0.5, "stream_timeout_s": 2, "retry_after_s": 7},
    ) as door:
        yield door


def from_address(address: str) -> dict[str, str]:
    """As a trusted proxy would say it, so that tests do not share a bucket."""
    return {"x-forwarded-for": address}


def test_a_flood_is_told_when_to_come_again(narrow: EchoDoor) -> None:
    with narrow.client(mint(sub="flood")) as client:
        client.headers.update(from_address("192.0.2.1"))
        answers = [client.post("/embed", json={}) for _ in range(12)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:5] == [200] * 5
        assert 5 <= statuses.count(429) <= 7
        assert [int(answer.headers["ratelimit-remaining"]) for answer in answers[:5]] == [4, 3, 2, 1, 0]
        refused = next(answer for answer in answers if answer.status_code == 429)
        problem(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        assert (refused.headers["ratelimit-limit"], refused.headers["ratelimit-remaining"]) == ("5", "0")
        assert int(refused.headers["ratelimit-reset"]) <= 1
        assert not any(name.startswith("x-ratelimit") for name in refused.headers)
        # Raw KServe has the same bucket.
        problem(client.get("/v2/models/a"), 429, "rate_limited")
        # Others are not hit, and health is nobody's.
        assert client.get("/health").status_code == 200
        assert "ratelimit-limit" not in client.get("/health").headers
    with narrow.client(mint(sub="other")) as client:
        assert client.post("/embed", json={}, headers=from_address("192.0.2.1")).status_code == 200
    time.sleep(1.1)
    with narrow.client(mint(sub="flood")) as client:
        assert client.post("/embed", json={}, headers=from_address("192.0.2.1")).status_code == 200


def test_an_address_is_limited_before_anybody_is_known(narrow: EchoDoor) -> None:
    with narrow.client() as client:
        answers = [client.post("/embed", headers=from_address("192.0.2.2")) for _ in range(60)]
        assert {answer.status_code for answer in answers[:40]} == {401}
        refused = answers[-1]
        problem(refused, 429, "rate_limited")
        assert (refused.headers["retry-after"], refused.headers["ratelimit-limit"]) == ("1", "40")
        assert client.post("/embed", headers=from_address("192.0.2.3")).status_code == 401
        # A whole IPv6 network is one caller.
        for last in range(60):
            answer = client.post("/embed", headers=from_address(f"2001:db8::{last:x}"))
        assert answer.status_code == 429


def test_floods_over_grpc_get_resource_exhausted(narrow: EchoDoor) -> None:
    metadata = [("authorization", f"Bearer {mint(sub='grpc-flood')}"), ("x-forwarded-for", "192.0.2.4")]
    with grpc.insecure_channel(f"127.0.0.1:{narrow.port}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = GRPCInferenceServiceStub(channel)
        errors = []
        for _ in range(8):
            with pytest.raises(grpc.RpcError) as error:
                stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=metadata, timeout=5)
            errors.append(error.value)
    refused: Any = errors[-1]
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert b"rate_limited" in rpc_status.from_call(refused).details[0].value
    assert dict(refused.trailing_metadata())["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/embed", "/v1/chat/completions", "/v2/models/a/infer"])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(echo_limits: EchoDoor, path: str, chunked: bool) -> None:
    fits, too_large = b"a" * MAX_BODY, b"a" * (MAX_BODY + 1)
    with echo_limits.client(mint()) as client:
        content = (lambda body: iter([body[:50_000], body[50_000:]])) if chunked else (lambda body: body)
        assert client.post(path, content=content(fits)).json()["length"] == MAX_BODY
        problem(client.post(path, content=content(too_large)), 413, "body_too_large")


@pytest.fixture(scope="module")
def echo_limits() -> Iterator[EchoDoor]:
    """Small bodies, and no limits of requests in the way."""
    limits = {"local": None, "address": None, "max_body_bytes": MAX_BODY}
    resilience = {"request_timeout_s": 0.5, "retry_after_s": 7, "drain_s": 1}
    with echo_door(
        limits=limits, resilience=resilience, listen={"headers_timeout_s": 0.5}, more_pools=("away",)
    ) as door:
        yield door


def test_headers_that_trickle_in_are_cut(echo_limits: EchoDoor) -> None:
    with socket.create_connection(("127.0.0.1", echo_limits.port), timeout=10) as connection:
        connection.sendall(b"POST /embed HTTP/1.1\r\nhost: door\r\n")
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.1):
                try:
                    connection.sendall(b"x-a: b\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        started = time.monotonic()
        answer = connection.recv(65536)
        stop.set()
        thread.join()
    assert time.monotonic() - started < 2
    assert raw.status(answer) == 408
    assert b'"code":"request_timeout"' in answer


@pytest.mark.parametrize("path", ["/embed", "/v2/models/a/infer"])
def test_bodies_that_trickle_in_are_cut(echo_limits: EchoDoor, path: str) -> None:
    head = raw.request(f"POST {path} HTTP/1.1", f"authorization: Bearer {mint()}", "content-length: 1000")
    with socket.create_connection(("127.0.0.1", echo_limits.port), timeout=15) as connection:
        connection.sendall(head)
        connection.settimeout(0.2)
        started, answer = time.monotonic(), b""
        while not answer and time.monotonic() - started < 12:
            connection.sendall(b"a")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert 2 < time.monotonic() - started < 4  # request_timeout_s and two seconds
    assert raw.status(answer) == 408
    assert b'"code":"request_timeout"' in answer


def test_bodies_of_strangers_are_not_waited_for(echo_limits: EchoDoor) -> None:
    head = raw.request("POST /embed HTTP/1.1", "content-length: 1000")
    with socket.create_connection(("127.0.0.1", echo_limits.port), timeout=5) as connection:
        connection.sendall(head)
        assert raw.status(connection.recv(65536)) == 401


def test_silent_and_half_open_connections_are_closed(narrow: EchoDoor) -> None:
    where = ("127.0.0.1", narrow.port)
    for first in (b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"):
        with socket.create_connection(where, timeout=10) as connection:
            connection.sendall(first)
            assert 1 < raw.seconds_until_closed(connection) < 4.5
    # Half a preface of HTTP/2.
    with socket.create_connection(where, timeout=10) as connection:
        connection.sendall(b"PRI * HTT")
        assert raw.seconds_until_closed(connection) < 3


def test_kernel_probes_find_callers_that_are_gone(narrow: EchoDoor) -> None:
    from gateway.envoy.door import door_listener

    options = {
        each["description"]: each for each in door_listener(narrow.config, narrow.paths)["socket_options"]
    }
    assert options["SO_KEEPALIVE"]["name"] == socket.SO_KEEPALIVE
    assert options["TCP_KEEPIDLE"]["name"] == socket.TCP_KEEPIDLE
    assert options["TCP_KEEPINTVL"]["name"] == socket.TCP_KEEPINTVL
    assert options["TCP_KEEPCNT"]["name"] == socket.TCP_KEEPCNT
    assert options["TCP_USER_TIMEOUT"]["name"] == socket.TCP_USER_TIMEOUT
    assert {each["level"] for each in options.values()} == {socket.SOL_SOCKET, socket.IPPROTO_TCP}


def test_connections_are_bounded(narrow: EchoDoor) -> None:
    where = ("127.0.0.1", narrow.port)
    time.sleep(0.3)
    held = [socket.create_connection(where, timeout=5) for _ in range(CONNECTIONS + 5)]
    try:
        time.sleep(0.2)
        closed = []
        for connection in held:
            connection.settimeout(0.01)
            try:
                closed.append(connection.recv(1) == b"")
            except TimeoutError:
                closed.append(False)
            except ConnectionResetError:
                closed.append(True)
        assert sum(closed) >= 5
        assert not all(closed)
    finally:
        for connection in held:
            connection.close()


def test_a_facade_that_hangs_is_not_waited_for_for_ever(echo_limits: EchoDoor) -> None:
    with echo_limits.client(mint()) as client:
        started = time.monotonic()
        problem(client.post("/embed?sleep=9", json={}), 504, "deadline_exceeded")
        assert time.monotonic() - started < 7


def test_servers_that_are_away_are_told_as_such(echo_limits: EchoDoor) -> None:
    with echo_limits.client(mint()) as client:
        answer = client.get("/v2/models/away")
    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "7"


def test_old_http_is_refused(echo_limits: EchoDoor) -> None:
    answer = raw.send(echo_limits, b"GET /health HTTP/1.0\r\nhost: x\r\n\r\n")
    assert b'"code":"invalid_value"' in answer


def test_without_limits_nothing_is_told_of_them(echo_limits: EchoDoor) -> None:
    with echo_limits.client(mint()) as client:
        answer: httpx.Response = client.get("/stats")
    assert not any("ratelimit" in name for name in answer.headers)
