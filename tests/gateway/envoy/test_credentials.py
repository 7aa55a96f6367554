"""Tokens and keys on each protocol, before the real facade and a real server."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import websockets.sync.client as websockets
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from websockets.exceptions import InvalidStatus

from gateway.proto import model_service_pb2 as proto
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from gateway.security.api_keys import ApiKeyStore
from gateway.triton.tensors import text_request
from tests.gateway.conftest import Door, open_door
from tests.gateway.envoy import issuers
from tests.gateway.envoy.certificates import Authority
from tests.gateway.envoy.echo_door import SECRET, base64url
from tests.gateway.envoy.issuers import hs256, sign, unsigned
from tritonforge.server import TritonServer

PUBLISHED_SECRET = b"an oct key that an issuer publishes by mistake"
Headers = dict[str, str]


@dataclass(frozen=True)
class Issuers:
    """Whom the door believes."""

    door: Door
    rsa: issuers.RSAKey
    elliptic: issuers.ECKey
    web: issuers.RSAKey
    folder: Path
    channel: grpc.Channel


@pytest.fixture(scope="module")
def whole(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuers]:
    folder = tmp_path_factory.mktemp("issuers")
    authority = Authority()
    authority.write(folder / "ca.pem")
    rsa, elliptic, web = issuers.rsa("r1"), issuers.elliptic("e1"), issuers.rsa("w1")
    oct_key = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": base64url(PUBLISHED_SECRET)}
    issuers.publish(folder / "file.json", rsa, elliptic, more=(oct_key,))
    issuers.publish(folder / "web.json", web, more=(oct_key,))
    with (
        issuers.published_by_https(folder / "web.json", authority.issue(folder, "idp")) as uri,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(os.environ, "TRITONFORGE_DEV_SECRET", SECRET)
        of_file = {"name": "file", "issuer": issuers.ISSUER, "jwks_file": str(folder / "file.json")}
        of_web = {
            "name": "web",
            "issuer": "https://web.example.com",
            "jwks_uri": uri,
            "ca_file": str(folder / "ca.pem"),
            "refresh_s": 1,
        }
        auth = {
            "issuers": [{**issuer, "audiences": [issuers.AUDIENCE]} for issuer in (of_file, of_web)],
            "development": {},
            "api_keys": {"file": str(folder / "keys.json")},
        }
        with (
            open_door([triton], folder, auth=auth) as door,
            grpc.insecure_channel(door.address, [("grpc.enable_http_proxy", 0)]) as channel,
        ):
            _wait_for_keys(door, [sign(rsa), sign(web, iss="https://web.example.com")])
            yield Issuers(door, rsa, elliptic, web, folder, channel)


def _wait_for_keys(door: Door, tokens: list[str]) -> None:
    """The door is open before it knows the issuers' keys."""
    deadline = time.monotonic() + 60
    while not all(rest(door, None, bearer(token)) == "ok" for token in tokens):
        assert time.monotonic() < deadline, door.log.read_text()[-3000:]
        time.sleep(0.2)


def bearer(token: str) -> Headers:
    return {"authorization": f"Bearer {token}"}


# Each way in gives "ok", or the code of the refusal.


def rest(door: Door, channel: grpc.Channel | None, headers: Headers) -> str:
    answer = httpx.post(
        f"{door.url}/embed", headers=headers, json={"text": "a", "model": "embed"}, timeout=60
    )
    return "ok" if answer.status_code == 200 else _code(answer)


def openai(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    answer = httpx.post(
        f"{door.url}/v1/embeddings", headers=headers, json={"input": "a", "model": "embed"}, timeout=60
    )
    return "ok" if answer.status_code == 200 else _code(answer)


def raw_http(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    answer = httpx.get(f"{door.url}/v2/models/embed/ready", headers=headers, timeout=60)
    return "ok" if answer.status_code == 200 else _code(answer)


def _code(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return str(answer.json()["code"])


def grpc_service(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    request = proto.PredictRequest(model="embed", embedding=proto.EmbeddingInput(text="a"))
    return _grpc(lambda: ModelServiceStub(channel).Predict(request, timeout=60, metadata=[*headers.items()]))


def raw_grpc(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    request = text_request("embed", "", ["a"], ["embedding"])
    stub = GRPCInferenceServiceStub(channel)
    return _grpc(lambda: stub.ModelInfer(request, timeout=60, metadata=[*headers.items()]))


def raw_grpc_stream(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    requests = iter([text_request("embed", "", ["a"], ["embedding"])])
    stub = GRPCInferenceServiceStub(channel)
    return _grpc(lambda: list(stub.ModelStreamInfer(requests, timeout=60, metadata=[*headers.items()])))


def _grpc(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)  # raises where details and message differ
        assert status is not None, error
        reason = status.details[0].value.split(b"\x12")[0][2:].decode()
        expected = {"unauthenticated": "UNAUTHENTICATED", "forbidden": "PERMISSION_DENIED"}
        assert expected.get(reason, error.code().name) == error.code().name
        return reason
    return "ok"


def websocket(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    address = door.url.replace("http", "ws") + "/ws/generate"
    try:
        with websockets.connect(address, additional_headers=headers, close_timeout=0.1):
            return "ok"
    except InvalidStatus as error:
        refused = error.response
        body, kind = bytes(refused.body or b""), refused.headers["content-type"]
        return _code(httpx.Response(refused.status_code, headers={"content-type": kind}, content=body))


def websocket_of_a_browser(door: Door, channel: grpc.Channel, headers: Headers) -> str:
    credential = headers["authorization"].removeprefix("Bearer ")
    protocols = [websockets.Subprotocol("tritonforge.v1"), websockets.Subprotocol(f"bearer.{credential}")]
    address = door.url.replace("http", "ws") + "/ws/generate"
    try:
        with websockets.connect(address, subprotocols=protocols, close_timeout=0.1) as socket:
            assert socket.subprotocol == "tritonforge.v1"
            return "ok"
    except InvalidStatus as refused:
        return "unauthenticated" if refused.response.status_code == 401 else str(refused)


WAYS = (rest, openai, raw_http, grpc_service, raw_grpc, raw_grpc_stream, websocket, websocket_of_a_browser)


def refused_tokens(known: Issuers) -> dict[str, str]:
    now = int(time.time())
    pem = issuers.public_pem(known.rsa)
    good = sign(known.rsa)
    head, _, signature = good.split(".")
    return {
        "unsigned": unsigned(),
        "unsigned, with something in its place": unsigned("AAAA"),
        "unsigned, in other letters": unsigned("AAAA", "None"),
        "signed with the public key as a secret": hs256(pem),
        "the same, naming that key": hs256(pem, "r1"),
        "signed with the modulus as a secret": hs256(known.rsa.as_dict(private=False)["n"].encode(), "r1"),
        "development secret for another issuer": hs256(SECRET.encode()),
        "another development secret": hs256(b"x" * 40, iss="tritonforge-dev"),
        "issuer's key for the development issuer": sign(known.rsa, iss="tritonforge-dev"),
        "secret in a published file": hs256(PUBLISHED_SECRET, "shared"),
        "secret in what is published by https": hs256(
            PUBLISHED_SECRET, "shared", iss="https://web.example.com"
        ),
        "key of another issuer": sign(known.web),
        "unknown key": sign(issuers.rsa("r1")),
        "unknown issuer": sign(known.rsa, iss="https://evil.example.com"),
        "no issuer": sign(known.rsa, iss=None),
        "wrong audience": sign(known.rsa, aud="other"),
        "no audience": sign(known.rsa, aud=None),
        "expired": sign(known.rsa, exp=now - 120),
        "never expires": sign(known.rsa, exp=None),
        "not yet valid": sign(known.rsa, nbf=now + 300),
        "no subject": sign(known.rsa, sub=None),
        "changed claims": f"{head}.{base64url(issuers.claims(sub='root'))}.{signature}",
        "cut off": good[:-8],
        "no token at all": "abc",
    }


def test_forged_and_outdated_tokens_open_nothing(whole: Issuers) -> None:
    for what, token in refused_tokens(whole).items():
        for way in WAYS:
            assert way(whole.door, whole.channel, bearer(token)) == "unauthenticated", (what, way.__name__)
    for way in WAYS[:-1]:
        assert way(whole.door, whole.channel, {}) == "unauthenticated"


def test_tokens_of_every_issuer_open_each_way(whole: Issuers) -> None:
    tokens = (
        sign(whole.rsa, aud=["other", issuers.AUDIENCE]),
        sign(whole.elliptic),
        sign(whole.web, iss="https://web.example.com"),
        hs256(SECRET.encode(), iss="tritonforge-dev"),
    )
    for token in tokens:
        for way in WAYS:
            assert way(whole.door, whole.channel, bearer(token)) == "ok", way.__name__


def test_keys_open_each_way_until_they_are_revoked(whole: Issuers) -> None:
    store = ApiKeyStore(whole.folder / "keys.json")
    made = store.create(["embed", "generate", "kserve", "model:*"], "ci")
    key = made.key
    for way in WAYS:
        assert way(whole.door, whole.channel, bearer(key)) == "ok", way.__name__
    for way in WAYS[:-1]:
        assert way(whole.door, whole.channel, {"x-api-key": key}) == "ok", way.__name__
    store.revoke(made.id)
    for way in WAYS:
        assert way(whole.door, whole.channel, bearer(key)) == "unauthenticated", way.__name__
        assert way(whole.door, whole.channel, bearer(key[:-1] + "x")) == "unauthenticated"


def test_scopes_hold_on_each_way(whole: Issuers) -> None:
    def tries(scopes: str) -> dict[str, str]:
        headers = bearer(sign(whole.rsa, scope=scopes))
        return {way.__name__: way(whole.door, whole.channel, headers) for way in WAYS[:-1]}

    one_model = tries("embed generate kserve model:embed")
    assert one_model.pop("raw_grpc_stream") == "forbidden"  # a stream may name any model
    assert set(one_model.values()) == {"ok"}
    other_model = tries("embed generate kserve model:sort")
    assert other_model.pop("websocket") == "ok"  # the model is named later
    assert set(other_model.values()) == {"forbidden"}
    assert set(tries("model:*").values()) == {"forbidden"}
    only_raw = tries("kserve model:*")
    assert {name for name, code in only_raw.items() if code == "ok"} == {
        "raw_http",
        "raw_grpc",
        "raw_grpc_stream",
    }


def test_the_model_of_a_message_cannot_be_hidden(whole: Issuers) -> None:
    metadata = [("authorization", f"Bearer {sign(whole.rsa, scope='kserve model:embed')}")]
    method = "/inference.GRPCInferenceService/ModelMetadata"

    def call(message: bytes) -> str:
        call = whole.channel.unary_unary(method)
        return _grpc(lambda: call(message, metadata=metadata, timeout=60))

    def field(name: bytes) -> bytes:
        return bytes([0x0A, len(name)]) + name

    assert call(field(b"embed")) == "ok"
    assert call(field(b"sort")) == "forbidden"
    # Servers take the last of two.
    assert call(field(b"embed") + field(b"sort")) == "forbidden"
    for nothing in (b"", field(b""), field(b"../sort"), b"\xff\xff", field(b"embed\0")):
        assert call(nothing) == "invalid_value", nothing
    stub = GRPCInferenceServiceStub(whole.channel)
    request = text_request("embed", "", ["a" * 1000], ["embedding"])
    compressed = grpc.Compression.Gzip
    assert (
        _grpc(lambda: stub.ModelInfer(request, metadata=metadata, compression=compressed)) == "invalid_value"
    )
    # A second message behind the first.
    two = whole.channel.stream_unary(method)
    with contextlib.suppress(grpc.RpcError):
        answer = service_pb2.ModelMetadataResponse.FromString(
            two(iter([field(b"embed"), field(b"sort")]), metadata=metadata, timeout=60)
        )
        assert answer.name == "embed"


def test_what_changes_a_server_is_open_to_nobody(whole: Issuers) -> None:
    stub, metadata = GRPCInferenceServiceStub(whole.channel), [*bearer(sign(whole.rsa)).items()]
    for call, request in (
        (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
        (stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(model_name="embed")),
        (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest(model_name="embed")),
        (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
        (stub.SystemSharedMemoryRegister, service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x")),
        (stub.CudaSharedMemoryStatus, service_pb2.CudaSharedMemoryStatusRequest()),
        (stub.TraceSetting, service_pb2.TraceSettingRequest()),
        (stub.LogSettings, service_pb2.LogSettingsRequest()),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(request, metadata=metadata, timeout=60)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert rpc_status.from_call(error.value).message == "there is nothing at this path"


def test_health_is_open_over_grpc_too_and_reflection_is_not(whole: Issuers) -> None:
    health = health_pb2_grpc.HealthStub(whole.channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    ask = whole.channel.stream_stream(method)
    listing = b"\x3a\x00"  # list_services
    assert _grpc(lambda: list(ask(iter([listing]), timeout=60))) == "unauthenticated"
    metadata = [*bearer(sign(whole.rsa, scope="")).items()]
    answers = list(ask(iter([listing]), metadata=metadata, timeout=60))
    assert b"tritonforge.v1.ModelService" in answers[0]


def test_keys_of_issuers_rotate_without_a_restart(whole: Issuers) -> None:
    """Last, for the first keys are gone after it."""
    new, new_web = issuers.rsa("r2"), issuers.rsa("w2")
    issuers.publish(whole.folder / "file.json", new)
    issuers.publish(whole.folder / "web.json", new_web)
    started = time.monotonic()
    web = {"iss": "https://web.example.com"}
    tokens = {"file": (sign(new), sign(whole.rsa)), "web": (sign(new_web, **web), sign(whole.web, **web))}
    while tokens:
        assert time.monotonic() - started < 120, tokens.keys()
        for name, (now, before) in list(tokens.items()):
            if rest(whole.door, None, bearer(now)) == "ok":
                assert rest(whole.door, None, bearer(before)) == "unauthenticated"
                del tokens[name]
        time.sleep(0.1)
