"""Requests of every kind, good and bad, so that no panel stays empty."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from websockets.sync.client import ClientConnection, connect

from gateway.proto import model_service_pb2 as pb
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from gateway.triton.tensors import text_request
from tests.gateway.conftest import Door

FORBIDDEN = "a forbidden sentence"
REQUESTS_A_MINUTE = 40
"""Of one caller, over all replicas."""
AT_ONCE = 60
"""Of one caller, in this gateway."""


class Traffic:
    """What callers do.

    Args:
        door: Whom they ask.
        authority: The certificate authority that they trust.
    """

    def __init__(self, door: Door, authority: Path) -> None:
        self._door = door
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._channel = grpc.secure_channel(
            door.address,
            grpc.ssl_channel_credentials(authority.read_bytes()),
            [("grpc.enable_http_proxy", 0)],
        )

    def close(self) -> None:
        self._channel.close()

    def round(self, name: str) -> None:
        """Everything once, by callers of this round's own, who meet no limit but where they should."""
        with self._client(f"alice-{name}") as client:
            self._encode(client, name)
            self._generate(client, name)
            self._fail(client)
        with self._client(f"flood-{name}") as client:
            codes = [client.post("/embed", json={"text": "again"}).status_code for _ in range(AT_ONCE + 20)]
        assert codes[0] == 200 and codes[-1] == 429, codes
        self._by_grpc(name)
        self._by_websocket(name)

    def once(self) -> int:
        """Status of one more request, of a caller who is new."""
        with self._client("late") as client:
            return client.post("/embed", json={"text": "late"}).status_code

    def _encode(self, client: httpx.Client, name: str) -> None:
        for text in (f"one {name}", f"two and more {name}", f"one {name}"):
            client.post("/embed", json={"text": text}).raise_for_status()
        texts = [f"{number} {'word ' * number}{name}" for number in range(8)]
        client.post("/embed/batch", json={"texts": texts}).raise_for_status()
        client.post("/classify", json={"text": f"glad {name}"}).raise_for_status()
        client.post("/classify", json={"text": f"long {name} " * 100}).raise_for_status()
        body = {"input": [f"three {name}"], "model": "embed"}
        client.post("/v1/embeddings", json=body).raise_for_status()
        tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [name]}
        client.post("/v2/models/embed/infer", json={"inputs": [tensor]}).raise_for_status()

    def _generate(self, client: httpx.Client, name: str) -> None:
        client.post("/predict", json={"text": f"Say {name}", "max_length": 12}).raise_for_status()
        turns = [{"role": "user", "content": f"{'a shared beginning ' * 20}{name}"}]
        for _ in range(2):  # the second finds the prompt's keys and values in the cache
            body = {"model": "tinygen", "messages": turns, "max_tokens": 12, "stream": True}
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
            assert lines[-1] == "data: [DONE]", lines

    def _fail(self, client: httpx.Client) -> None:
        refused = [
            client.post("/embed", json={"txt": "one"}),
            client.post("/embed", json={"text": FORBIDDEN}),
            client.post("/embed", json={"text": "x", "model": "nobody"}),
            client.post("/v2/models/embed/infer", json={"inputs": []}),
        ]
        assert all(400 <= answer.status_code < 500 for answer in refused), refused
        soon = {"x-request-timeout-ms": "1"}
        late = client.post("/predict", json={"text": "late", "max_length": 400}, headers=soon)
        assert late.status_code == 504, late.text
        wrong_name = client.post("/v2/models/nobody/infer", json={"inputs": []})  # asked again, elsewhere
        assert wrong_name.status_code == 404, wrong_name.text
        too_large = {"name": "input_ids", "shape": [1, 2], "datatype": "INT32", "data": [1, 10**6]}
        by_model = client.post("/v2/models/embed_engine/infer", json={"inputs": [too_large]})
        assert by_model.status_code == 400, by_model.text
        with self._client() as stranger:
            for headers in ({"authorization": "Bearer x.y.z"}, {"x-api-key": "tfk_a-000000_"}):
                assert stranger.post("/embed", json={"text": "x"}, headers=headers).status_code == 401

    def _by_grpc(self, name: str) -> None:
        shown = tuple(self._door.headers(subject=f"grpc-{name}").items())
        stub = ModelServiceStub(self._channel)
        asked = pb.PredictRequest(embedding=pb.EmbeddingInput(text=f"four {name}"))
        stub.Predict(asked, metadata=shown, timeout=60)
        prompt = pb.GenerationInput(prompt=f"Tell {name}", sampling=pb.Sampling(max_tokens=12))
        parts: Iterator[pb.StreamPredictResponse] = stub.StreamPredict(
            pb.StreamPredictRequest(generation=prompt), metadata=shown, timeout=60
        )
        assert len(list(parts)) > 1
        raw = text_request("sort", "", [f"five {name}"], ["label"])
        GRPCInferenceServiceStub(self._channel).ModelInfer(raw, metadata=shown, timeout=60)

    def _by_websocket(self, name: str) -> None:
        with self.socket(name) as socket:
            socket.send(json.dumps({"prompt": f"Write {name}", "max_tokens": 12}))
            while not json.loads(socket.recv(60))["is_final"]:
                pass

    def socket(self, name: str) -> ClientConnection:
        """An open WebSocket."""
        url = f"wss://{self._door.address}/ws/generate"
        headers = self._door.headers(subject=f"socket-{name}")
        return connect(url, additional_headers=headers, ssl=self._tls, proxy=None, open_timeout=60)

    def _client(self, subject: str | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self._door.url,
            headers=self._door.headers(subject=subject) if subject else {},
            verify=self._tls,
            trust_env=False,
            timeout=60,
        )
