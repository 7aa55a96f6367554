"""ModelService, keys and reflection as callers meet them: through Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import tritonclient.grpc.aio as triton_client
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from gateway.proto import model_service_pb2 as pb
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from gateway.security.api_keys import ApiKeyStore
from tests.gateway.conftest import Door
from tests.gateway.grpc.test_ending import CALLS, LONG, Ends, ends_early
from tests.gateway.grpc.test_service import classify, embed
from tritonforge.server import TritonServer


@pytest.fixture
async def channel(door: Door) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(door.address, [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


async def test_a_key_opens_until_it_is_revoked(door: Door, channel: grpc.aio.Channel) -> None:
    store = ApiKeyStore(door.folder / "keys.json")
    made = store.create(["embed", "kserve", "model:embed"], "grpc")
    shown = (("x-api-key", made.key),)
    stub = ModelServiceStub(channel)
    answer = await stub.Predict(embed("x"), metadata=shown)
    assert answer.model == "embed"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Predict(classify("x"), metadata=shown)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    raw = triton_client.InferenceServerClient(door.address)
    assert await raw.is_model_ready("embed", headers=dict(shown))
    store.revoke(made.id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Predict(embed("y"), metadata=shown)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(Exception, match=r"UNAUTHENTICATED|401|API key"):
        await raw.get_model_metadata("embed", headers=dict(shown))
    await raw.close()


async def test_nobody_and_forged_names_are_refused(door: Door, channel: grpc.aio.Channel) -> None:
    forged = (("x-tritonforge-subject", "alice"), ("x-tritonforge-scopes", "embed model:*"))
    stub = ModelServiceStub(channel)
    for shown in ((), forged, (("x-api-key", "tfk_a-000000_"),), (("authorization", "Bearer x.y.z"),)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(embed("x"), metadata=shown)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED, shown
    health = await HealthStub(channel).Check(HealthCheckRequest())
    assert health.status == HealthCheckResponse.SERVING


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_leaving_reaches_triton(
    door: Door, channel: grpc.aio.Channel, triton: TritonServer, how: str
) -> None:
    ends = Ends(triton.metrics_url)
    request = pb.StreamPredictRequest(generation=LONG)
    shown = tuple(door.headers().items())

    async def ask_and_leave(soon: float) -> None:
        timeout = soon if how == "deadline" else 120
        calls = [
            ModelServiceStub(channel).StreamPredict(request, metadata=shown, timeout=timeout)
            for _ in range(CALLS)
        ]
        if how == "cancel":
            await asyncio.gather(*(call.read() for call in calls[:8]))
            for call in calls:
                call.cancel()
        else:
            await asyncio.gather(*(call.code() for call in calls))

    await ends_early(ends, ask_and_leave)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_for_those_who_are_known(
    door: Door, channel: grpc.aio.Channel, version: str
) -> None:
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    shown = tuple(door.headers().items())
    (answer,) = [one async for one in ask(iter([ServerReflectionRequest(list_services="")]), metadata=shown)]
    names = {service.name for service in answer.list_services_response.service}
    assert {"tritonforge.v1.ModelService", "inference.GRPCInferenceService"} <= names
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(iter([])).read()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
