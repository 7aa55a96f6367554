"""What goes wrong has REST's codes, and details that clients can decode."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from gateway.config import GatewayConfig
from gateway.errors import CODES, ApiError
from gateway.facade.grpc.errors import status_of
from gateway.identity import SCOPES_HEADER, SUBJECT_HEADER
from gateway.proto import model_service_pb2 as pb
from gateway.tasks.call import Call
from tests.gateway.grpc.conftest import METADATA, Door, OpenDoor, told
from tests.gateway.grpc.test_service import embed, generate


async def failure(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, Status, dict[str, str]]:
    """Code, decoded status and trailing metadata of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    status = await rpc_status.aio.from_call(call)
    assert status is not None, error
    assert status.code == error.code().value[0]
    return error.code(), status, dict(await call.trailing_metadata())


REFUSED = [
    (embed(""), "missing_field", "embedding.text"),
    (pb.PredictRequest(), "missing_field", "input"),
    (embed("x" * 101), "invalid_value", "embedding.text"),
    (embed("x", "y" * 129), "invalid_value", "model"),
    (embed("x", "sort"), "wrong_task", "model"),
    (generate("x", max_tokens=0), "invalid_value", "generation.sampling.max_tokens"),
    (generate("x", max_tokens=2049), "invalid_value", "generation.sampling.max_tokens"),
    (generate("x", temperature=0.09), "invalid_value", "generation.sampling.temperature"),
    (generate("x", temperature=float("nan")), "invalid_value", "generation.sampling.temperature"),
    (generate("x", top_p=0), "invalid_value", "generation.sampling.top_p"),
    (generate("x", stop=["a", ""]), "invalid_value", "generation.sampling.stop.1"),
    (generate("x", json_schema="{"), "invalid_json", None),
    (pb.PredictRequest(generation=pb.GenerationInput()), "missing_field", "generation"),
    (
        pb.PredictRequest(generation=pb.GenerationInput(conversation=pb.Conversation())),
        "missing_field",
        "generation.conversation.messages",
    ),
]


async def test_bad_input_is_named(grpc_door: OpenDoor) -> None:
    config = GatewayConfig.model_validate({"limits": {"max_text_bytes": 100}})
    async with grpc_door(config) as d:
        for request, reason, field in REFUSED:
            code, status, _ = await failure(d.stub.Predict(request, metadata=METADATA))
            info = told(status, ErrorInfo)
            assert (info.reason, info.domain) == (reason, "tritonforge"), request
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert info.metadata["mend"]
            if field is not None:
                assert info.metadata["field"] == field
                assert told(status, BadRequest).field_violations[0].field == field


async def test_the_codes_are_those_of_rest(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        for request, path, body in (
            (embed("x", "sort"), "/embed", {"text": "x", "model": "sort"}),
            (embed("x", "nobody"), "/embed", {"text": "x", "model": "nobody"}),
            (generate("x", temperature=3), "/predict", {"text": "x", "temperature": 3.0}),
            (generate("x", max_tokens=10**6), "/predict", {"text": "x", "max_length": 10**6}),
            (generate("x", stop=["a"] * 17), "/predict", {"text": "x", "stop": ["a"] * 17}),
        ):
            code, status, _ = await failure(d.stub.Predict(request, metadata=METADATA))
            rest = (await d.rest.post(path, json=body)).json()
            assert told(status, ErrorInfo).reason == rest["code"], path
            assert CODES[rest["code"]].grpc == code.name


async def test_scopes_are_demanded(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        for scopes, missing in (("classify model:*", "embed"), ("embed model:sort", "model:embed")):
            metadata = ((SUBJECT_HEADER, "bob"), (SCOPES_HEADER, scopes))
            code, status, _ = await failure(d.stub.Predict(embed("x"), metadata=metadata))
            assert code == grpc.StatusCode.PERMISSION_DENIED
            assert missing in status.message
        code, status, _ = await failure(d.stub.Predict(embed("x")))
    assert (code, told(status, ErrorInfo).reason) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")


async def raw(door: Door, data: bytes) -> tuple[grpc.StatusCode, Status]:
    call = door.channel.unary_unary("/tritonforge.v1.ModelService/Predict")(data, metadata=METADATA)
    code, status, _ = await failure(call)
    return code, status


async def test_bytes_that_are_no_message_are_refused(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        for data in (b"\xff\xff", b"\x0a\x02\xc3\x28"):  # the second: a model's name that is no UTF-8
            code, status = await raw(d, data)
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert told(status, ErrorInfo).reason == "invalid_value"


@pytest.mark.parametrize(
    ("inner", "field"),
    [(b"\x12\x03\x0a\x01x" + b"\x98\x06\x01", "99"), (b"\x12\x06\x0a\x01x\x98\x06\x01", "embedding.99")],
)
async def test_unknown_fields_are_refused(grpc_door: OpenDoor, inner: bytes, field: str) -> None:
    async with grpc_door() as d:
        code, status = await raw(d, inner)
    info = told(status, ErrorInfo)
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "unknown_field")
    assert info.metadata["field"] == field


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_large_messages_are_refused(grpc_door: OpenDoor, compression: grpc.Compression) -> None:
    config = GatewayConfig.model_validate({"limits": {"max_body_bytes": 100_000}})
    async with grpc_door(config, compression=compression) as d:
        await d.stub.Predict(embed("x" * 90_000), metadata=METADATA)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await d.stub.Predict(embed("x" * 110_000), metadata=METADATA)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_batches_are_bounded(grpc_door: OpenDoor) -> None:
    config = GatewayConfig.model_validate({"limits": {"max_texts": 2}})
    async with grpc_door(config) as d:
        for count, reason in ((0, "missing_field"), (3, "invalid_value")):
            request = pb.BatchPredictRequest(requests=[embed("x")] * count)
            _, status, _ = await failure(d.stub.BatchPredict(request, metadata=METADATA))
            assert told(status, ErrorInfo).reason == reason
        batch = await d.stub.BatchPredict(
            pb.BatchPredictRequest(requests=[embed("x")] * 2), metadata=METADATA
        )
        assert len(batch.answers) == 2


async def test_limits_are_told(grpc_door: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONFORGE_REDIS_URL", "redis://127.0.0.1:1/0")  # away: this process counts
    config = GatewayConfig.model_validate({"limits": {"shared": {"requests_per_minute": 1}}})
    async with grpc_door(config) as d:
        call = d.stub.Predict(embed("x"), metadata=METADATA)
        await call
        assert dict(await call.trailing_metadata())["ratelimit-remaining"] == "0"
        code, status, trailing = await failure(d.stub.Predict(embed("y"), metadata=METADATA))
        assert (code, told(status, ErrorInfo).reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "rate_limited",
        )
        seconds = told(status, RetryInfo).retry_delay.ToSeconds()
        assert 1 <= seconds <= 60
        assert (trailing["ratelimit-remaining"], trailing["retry-after"]) == ("0", str(seconds))
        stream = d.stub.StreamPredict(
            pb.StreamPredictRequest(generation=pb.GenerationInput(prompt="x")), metadata=METADATA
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        batch = await d.stub.BatchPredict(pb.BatchPredictRequest(requests=[embed("z")]), metadata=METADATA)
        assert told(batch.answers[0].error, ErrorInfo).reason == "rate_limited"


async def test_one_denied_text_does_not_refuse_its_neighbours(grpc_door: OpenDoor) -> None:
    config = GatewayConfig.model_validate({"screen": {"deny": ["forbidden"]}})
    async with grpc_door(config) as d:
        request = pb.BatchPredictRequest(requests=[embed("a"), embed("a forbidden text"), embed("b")])
        batch = await d.stub.BatchPredict(request, metadata=METADATA)
    assert [answer.WhichOneof("outcome") for answer in batch.answers] == ["response", "error", "response"]
    assert told(batch.answers[1].error, ErrorInfo).reason == "text_refused"


async def test_a_fault_is_not_told(grpc_door: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def admit(call: Call) -> None:
        raise RuntimeError("the password is 1234")

    async with grpc_door() as d:
        monkeypatch.setattr(d.facade.limiter, "admit", admit)
        code, status, trailing = await failure(d.stub.Predict(embed("x"), metadata=METADATA))
    assert (code, told(status, ErrorInfo).reason) == (grpc.StatusCode.INTERNAL, "internal")
    assert "1234" not in f"{status}{trailing}"


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_code_has_a_status(name: str) -> None:
    error = ApiError(name, "w" * 5000, field="f", mend="m" * 5000, retry_after_s=0.5)
    status = status_of(error)
    kinds: list[type[Message]] = [ErrorInfo, RetryInfo]
    if error.code.grpc == "INVALID_ARGUMENT":
        kinds.append(BadRequest)
    assert [bool(told(status, kind)) for kind in kinds] == [True] * len(kinds)
    assert status.ByteSize() < 3000  # what clients take in metadata is little
