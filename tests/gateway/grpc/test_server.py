"""Health, reflection, sockets, and generated code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from gateway.errors import GatewayError
from gateway.facade.grpc import start_grpc
from gateway.facade.grpc.tasks import TASKS
from gateway.proto import model_service_pb2 as pb
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from gateway.triton.channel import TritonChannel
from tests.gateway.conftest import FacadeApp
from tests.gateway.grpc.conftest import METADATA, Door, OpenDoor
from tests.gateway.grpc.test_service import embed

SERVICES = ("tritonforge.v1.ModelService", "grpc.health.v1.Health", "inference.GRPCInferenceService")
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def test_generated_code_is_not_stale() -> None:
    root = Path(__file__).parents[3]
    checked = subprocess.run(
        [sys.executable, root / "tools" / "proto.py", "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


async def test_health_is_that_of_the_models(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        health = HealthStub(d.channel)
        for service in ("", *SERVICES):
            answer = await health.Check(HealthCheckRequest(service=service))
            assert answer.status == SERVING, service
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        unknown = await health.Watch(HealthCheckRequest(service="nobody")).read()
        assert unknown.status == HealthCheckResponse.SERVICE_UNKNOWN


async def test_health_is_watched(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        health = HealthStub(d.channel)
        watches = [health.Watch(HealthCheckRequest(service=SERVICES[0])) for _ in range(2)]
        assert [(await watch.read()).status for watch in watches] == [SERVING, SERVING]
        watches.pop().cancel()  # one that leaves takes nothing from the other
        models = d.facade.models
        way = models._channel
        async with models._lock:  # not while it asks by itself
            models._channel = TritonChannel("127.0.0.1:1")  # as if the servers were cut off
            await models.refresh()
        assert (await asyncio.wait_for(watches[0].read(), 60)).status == NOT_SERVING
        assert (await health.Check(HealthCheckRequest())).status == NOT_SERVING
        async with models._lock:
            await models._channel.close()
            models._channel = way
            await models.refresh()
        assert (await asyncio.wait_for(watches[0].read(), 60)).status == SERVING
        stopping = asyncio.create_task(d.server.stop(60))
        assert (await asyncio.wait_for(watches[0].read(), 60)).status == NOT_SERVING
        await asyncio.wait_for(stopping, 20)  # a watcher does not hold up the stop


class Reflected:
    """What grpcurl does: asks a server for its descriptors, and knows nothing beforehand."""

    def __init__(self, door: Door, version: str) -> None:
        self._ask = door.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )
        self.pool = descriptor_pool.DescriptorPool()

    async def ask(self, **question: str) -> ServerReflectionResponse:
        answers = [a async for a in self._ask(iter([ServerReflectionRequest(**question)]))]
        assert len(answers) == 1
        return answers[0]

    async def load(self, **question: str) -> None:
        """Add a file and what it imports."""
        answer = await self.ask(**question)
        assert not answer.HasField("error_response"), answer
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for name in file.dependency:
                if not self._has(name):
                    await self.load(file_by_filename=name)
            if not self._has(file.name):
                self.pool.Add(file)

    def _has(self, name: str) -> bool:
        try:
            self.pool.FindFileByName(name)
        except KeyError:
            return False
        return True

    def message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_enough_to_call(grpc_door: OpenDoor, version: str) -> None:
    async with grpc_door() as d:
        reflected = Reflected(d, version)
        listed = (await reflected.ask(list_services="")).list_services_response.service
        assert {service.name for service in listed} >= set(SERVICES)
        for service in listed:
            await reflected.load(file_containing_symbol=service.name)
            assert reflected.pool.FindServiceByName(service.name).methods

        method = reflected.pool.FindServiceByName(SERVICES[0]).FindMethodByName("Predict")
        asked = reflected.message(method.input_type.full_name)
        answered = reflected.message(method.output_type.full_name)
        call = d.channel.unary_unary(
            f"/{SERVICES[0]}/Predict",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        request = ParseDict({"classification": {"text": "a cat"}}, asked())
        answer = MessageToDict(await call(request, metadata=METADATA), preserving_proto_field_name=True)
        assert answer["model"] == "sort"
        assert {entry["label"] for entry in answer["classification"]["scores"]} == {"calm", "glad", "sad"}

        missing = await reflected.ask(file_containing_symbol="no.Such")
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_it_serves_on_a_socket(facade_app: FacadeApp, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/grpc.sock"
    async with facade_app() as running:
        (tmp_path / "grpc.sock").touch()  # as a killed process leaves it
        with pytest.raises(GatewayError, match="cannot listen"):
            await start_grpc(running.facade, f"unix:{tmp_path}/missing/grpc.sock")
        (tmp_path / "grpc.sock").unlink()
        server = await start_grpc(running.facade, address)
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await ModelServiceStub(channel).Predict(embed("x"), metadata=METADATA)
        await server.stop(1)
    assert len(answer.embedding.values) == 32


def test_a_task_has_one_number_in_all_messages() -> None:
    tasks = {field.name: field.number for field in pb.PredictRequest.DESCRIPTOR.oneofs[0].fields}
    for message in (pb.PredictResponse, pb.StreamPredictRequest, pb.StreamPredictResponse):
        found = {field.name: field.number for field in message.DESCRIPTOR.oneofs[0].fields}
        assert found.items() <= tasks.items()
    assert set(tasks) == set(TASKS)
