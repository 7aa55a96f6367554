"""Floods, large bodies, slow and silent callers, and an upstream that does not answer."""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
BURST, OF_ADDRESS = 5, 40
CUT_S = 8.0  # what is cut is cut far sooner; by the defaults of the configuration it would be later


@pytest.fixture(scope="module")
def narrow() -> Iterator[EchoDoor]:
    """Few requests; one flows in each second."""
    with echo_door(
        listen={"trusted_hops": 1},
        limits={
            "local": {"per_second": 1, "burst": BURST},
            "address": {"per_second": 1, "burst": OF_ADDRESS},
        },
    ) as door:
        yield door


def from_address(address: str) -> dict[str, str]:
    """As a trusted proxy would say it, so that tests do not share a bucket."""
    return {"x-forwarded-for": address}


def flood(ask: Callable[[], httpx.Response], burst: int) -> list[httpx.Response]:
    """Ask until there is a refusal, the last answer.

    No more comes through than the bucket holds, and what flows in meanwhile: much, where the machine is busy.
    """
    started, answers = time.monotonic(), [ask()]
    while answers[-1].status_code != 429:
        assert len(answers) <= burst + 1 + (time.monotonic() - started)
        answers.append(ask())
    return answers


def test_a_flood_is_told_when_to_come_again(narrow: EchoDoor) -> None:
    with narrow.client(mint(sub="flood")) as client:
        client.headers.update(from_address("192.0.2.1"))
        started = time.monotonic()
        *passed, refused = flood(lambda: client.post("/embed", json={}), BURST)
        assert len(passed) >= BURST
        assert {answer.status_code for answer in passed} == {200}
        for number, answer in enumerate(passed[:BURST], 1):
            flowed = math.ceil(time.monotonic() - started)
            left = int(answer.headers["ratelimit-remaining"])
            assert BURST - number <= left < BURST - number + flowed
        problem(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "1"
        assert (refused.headers["ratelimit-limit"], refused.headers["ratelimit-remaining"]) == ("5", "0")
        assert int(refused.headers["ratelimit-reset"]) <= 1
        assert not any(name.startswith("x-ratelimit") for name in refused.headers)
        # Raw KServe has the same bucket, in which there is next to nothing now.
        problem(flood(lambda: client.get("/v2/models/a"), burst=1)[-1], 429, "rate_limited")
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
        *passed, refused = flood(lambda: client.post("/embed", headers=from_address("192.0.2.2")), OF_ADDRESS)
        assert len(passed) >= OF_ADDRESS
        assert {answer.status_code for answer in passed} == {401}
        problem(refused, 429, "rate_limited")
        assert (refused.headers["retry-after"], refused.headers["ratelimit-limit"]) == ("1", "40")
        assert client.post("/embed", headers=from_address("192.0.2.3")).status_code == 401
        # A whole IPv6 network is one caller.
        hosts = itertools.count(1)
        flood(lambda: client.post("/embed", headers=from_address(f"2001:db8::{next(hosts):x}")), OF_ADDRESS)


def test_floods_over_grpc_get_resource_exhausted(narrow: EchoDoor) -> None:
    metadata = [("authorization", f"Bearer {mint(sub='grpc-flood')}"), ("x-forwarded-for", "192.0.2.4")]
    with grpc.insecure_channel(f"127.0.0.1:{narrow.port}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = GRPCInferenceServiceStub(channel)
        refused: Any = None
        for _ in range(100):
            with pytest.raises(grpc.RpcError) as error:
                stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=metadata, timeout=60)
            refused = error.value
            if refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                break
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
    """Small bodies, few connections, and no limits of requests in the way."""
    limits = {
        "local": None,
        "address": None,
        "max_body_bytes": MAX_BODY,
        "max_connections": CONNECTIONS,
    }
    with echo_door(limits=limits, resilience={"retry_after_s": 7}, more_pools=("away",)) as door:
        yield door


@pytest.fixture(scope="module")
def hasty() -> Iterator[EchoDoor]:
    """Short times: for those alone who are to be too late."""
    listen = {"headers_timeout_s": 0.5, "idle_timeout_s": 1.5}
    with echo_door(listen=listen, resilience={"request_timeout_s": 0.5, "drain_s": 1}) as door:
        yield door


def test_headers_that_trickle_in_are_cut(hasty: EchoDoor) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=60) as connection:
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
    assert time.monotonic() - started < CUT_S
    assert raw.status(answer) == 408
    assert b'"code":"request_timeout"' in answer


@pytest.mark.parametrize("path", ["/embed", "/v2/models/a/infer"])
def test_bodies_that_trickle_in_are_cut(hasty: EchoDoor, path: str) -> None:
    head = raw.request(f"POST {path} HTTP/1.1", f"authorization: Bearer {mint()}", "content-length: 1000")
    started, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=60) as connection:
        connection.sendall(head)
        connection.settimeout(0.2)
        while not answer and time.monotonic() - started < 60:
            connection.sendall(b"a")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert 2 < time.monotonic() - started < CUT_S  # request_timeout_s and two seconds
    assert raw.status(answer) == 408
    assert b'"code":"request_timeout"' in answer


def test_bodies_of_strangers_are_not_waited_for(echo_limits: EchoDoor) -> None:
    head = raw.request("POST /embed HTTP/1.1", "content-length: 1000")
    with socket.create_connection(("127.0.0.1", echo_limits.port), timeout=30) as connection:
        connection.sendall(head)
        assert raw.status(connection.recv(65536)) == 401


def test_silent_and_half_open_connections_are_closed(hasty: EchoDoor) -> None:
    # The last is half a preface of HTTP/2.
    firsts = (b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"PRI * HTT")
    with contextlib.ExitStack() as stack:
        started, held = time.monotonic(), []
        for first in firsts:
            connection = socket.create_connection(("127.0.0.1", hasty.port), timeout=60)
            held.append(stack.enter_context(connection))
            connection.sendall(first)
        for connection in held[:2]:
            raw.receive(connection)
            assert time.monotonic() - started > 1
        raw.receive(held[2])


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


def test_a_facade_that_hangs_is_not_waited_for_for_ever(hasty: EchoDoor) -> None:
    with hasty.client(mint()) as client:
        problem(client.post("/embed?sleep=30", json={}), 504, "deadline_exceeded")


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


def test_connections_are_bounded(echo_limits: EchoDoor) -> None:
    """Last, for the door still counts these a while."""
    where = ("127.0.0.1", echo_limits.port)
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(where, timeout=30)) for _ in range(CONNECTIONS + 5)
        ]
        deadline = time.monotonic() + 60
        while (closed := sum(map(is_closed, held))) < 5:
            assert time.monotonic() < deadline, closed
        assert closed < len(held)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it, who sends nothing."""
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
