"""What Envoy asks the facade: keys, and requests per minute of raw KServe; and doors that ask nobody."""

from __future__ import annotations

from pathlib import Path

import grpc
import httpx
import pytest
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gateway.identity import API_SCOPES
from tests.gateway.conftest import open_door
from tests.gateway.envoy.echo_door import echo_door, mint
from tests.gateway.envoy.test_door import problem, reached
from tests.gateway.guards.conftest import BINARY, Redis
from tritonforge.server import TritonServer


@pytest.mark.skipif(BINARY is None, reason="needs redis-server")
def test_raw_requests_count_in_the_shared_limits(
    triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = Redis(tmp_path)
    redis.start()
    monkeypatch.setenv("TRITONFORGE_REDIS_URL", redis.url)
    limits = {"shared": {"requests_per_minute": 4, "timeout_ms": 20_000}, "address": None}
    try:
        with open_door([triton], tmp_path, limits=limits) as door:
            headers = door.headers()
            with httpx.Client(base_url=door.url, headers=headers, timeout=60) as client:
                assert client.post("/embed", json={"text": "a", "model": "embed"}).status_code == 200
                answers = [client.get("/v2/models/embed") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert [answer.headers["ratelimit-remaining"] for answer in answers[:3]] == ["2", "1", "0"]
            refused = answers[-1]
            problem(refused, 429, "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["ratelimit-limit"] == "4"
            with grpc.insecure_channel(door.address, [("grpc.enable_http_proxy", 0)]) as channel:
                stub = GRPCInferenceServiceStub(channel)
                with pytest.raises(grpc.RpcError) as error:
                    stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=[*headers.items()], timeout=60)
                assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert b"rate_limited" in rpc_status.from_call(error.value).details[0].value
                # Another caller is not hit.
                others = [*door.headers(subject="bob").items()]
                assert stub.ServerLive(service_pb2.ServerLiveRequest(), metadata=others, timeout=60).live
    finally:
        redis.kill()


def test_without_an_answer_about_a_key_nobody_comes_in(tmp_path: Path) -> None:
    keys = {"api_keys": {"file": str(tmp_path / "keys.json")}}
    with echo_door(auth=keys, resilience={"retry_after_s": 7}) as door, door.client() as client:
        facade = door.paths.facade_http(0)
        facade.rename(facade.with_suffix(".away"))
        for headers in ({"x-api-key": "tfk_a"}, {"authorization": "Bearer tfk_a"}):
            answer = client.get("/v2/models/a", headers=headers)
            problem(answer, 503, "unavailable")
            assert answer.headers["retry-after"] == "7"
        facade.with_suffix(".away").rename(facade)
        # This upstream says yes to every key, but names nobody.
        for headers in ({"x-api-key": "tfk_a"}, {"authorization": "Bearer tfk_a"}):
            problem(client.get("/v2/models/a", headers=headers), 401, "unauthenticated")


def test_without_keys_a_key_is_refused() -> None:
    with echo_door() as door, door.client() as client:
        problem(client.get("/stats", headers={"x-api-key": "tfk_a"}), 401, "unauthenticated")


def test_an_open_door_knows_everybody_as_anonymous() -> None:
    with echo_door(auth={"disabled": True}) as door, door.client(mint()) as client:
        forged = {"x-tritonforge-subject": "root", "x-api-key": "tfk_a"}
        for answer in (client.post("/embed", headers=forged), client.get("/v2/models/a", headers=forged)):
            seen = reached(answer)
            assert seen["x-tritonforge-subject"] == "anonymous"
            assert set(seen["x-tritonforge-scopes"].split()) == {*API_SCOPES, "model:*"}
            assert not {"authorization", "x-api-key"} & seen.keys()
        problem(client.post("/v2/repository/index"), 404, "not_found")
        problem(client.get("/internal/admit"), 404, "not_found")
