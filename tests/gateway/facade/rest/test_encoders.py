"""``/embed`` and ``/classify`` on the real server, against what Triton itself says."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray

from gateway.config import GatewayConfig
from gateway.identity import SCOPES_HEADER, SUBJECT_HEADER
from tests.gateway.conftest import FacadeApp
from tritonforge.server import TritonServer

TEXTS = ["a cat sits on the mat", "x", "ä ö ü 😀 \x00 \n", "a cat sits on the mat"]


def straight(triton: TritonServer, model: str, output: str) -> NDArray[np.float32]:
    with grpcclient.InferenceServerClient(triton.grpc_url) as client:
        tensor = grpcclient.InferInput("text", [len(TEXTS), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()] for text in TEXTS], dtype=object))
        answer = client.infer(model, [tensor]).as_numpy(output)
    assert answer is not None
    return answer


async def test_embed(facade_app: FacadeApp, triton: TritonServer) -> None:
    expected = straight(triton, "embed", "embedding")
    async with facade_app() as running:
        batch = (await running.client.post("/embed/batch", json={"texts": TEXTS})).json()
        single = (await running.client.post("/embed", json={"text": TEXTS[0], "model": "embed"})).json()
    np.testing.assert_allclose(batch["embeddings"], expected, atol=1e-5)
    np.testing.assert_allclose(single["embedding"], expected[0], atol=1e-5)
    assert batch["dimensions"] == single["dimensions"] == expected.shape[1]
    assert batch["model"] == single["model"] == "embed"
    assert 0 < single["latency_ms"] < 10_000


async def test_classify(facade_app: FacadeApp, triton: TritonServer) -> None:
    expected = straight(triton, "sort", "scores")
    async with facade_app() as running:
        batch = (await running.client.post("/classify/batch", json={"texts": TEXTS})).json()
        single = (await running.client.post("/classify", json={"text": TEXTS[0]})).json()
    scores = [list(found["scores"].values()) for found in batch["results"]]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    for found in [*batch["results"], single]:
        assert list(found["scores"]) == ["calm", "glad", "sad"]
        assert found["scores"][found["label"]] == found["score"] == max(found["scores"].values())
    assert single["scores"] == pytest.approx(batch["results"][0]["scores"], abs=1e-5)


@pytest.mark.parametrize(
    ("scopes", "path", "status"),
    [
        ("embed model:embed", "/embed", 200),
        ("embed model:*", "/embed", 200),
        ("embed model:sort", "/embed", 403),
        ("classify model:*", "/embed", 403),
        ("embed model:*", "/classify", 403),
        ("embed model:*", "/predict", 403),
        ("", "/embed", 403),
    ],
)
async def test_scopes(facade_app: FacadeApp, scopes: str, path: str, status: int) -> None:
    headers = {SUBJECT_HEADER: "bob", SCOPES_HEADER: scopes}
    async with facade_app() as running:
        answer = await running.client.post(path, json={"text": "a"}, headers=headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["code"] == "forbidden"


async def test_nobody(facade_app: FacadeApp) -> None:
    async with facade_app() as running:
        answer = await running.client.post("/embed", json={"text": "a"}, headers={SUBJECT_HEADER: ""})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_configured_bounds(facade_app: FacadeApp) -> None:
    limits = {"limits": {"max_texts": 2, "max_text_bytes": 4}}
    async with facade_app(GatewayConfig.model_validate(limits)) as running:
        many = await running.client.post("/embed/batch", json={"texts": ["a", "b", "c"]})
        long = await running.client.post("/embed/batch", json={"texts": ["a", "äöü"]})
        document = (await running.client.get("/openapi.json")).json()
    assert (many.status_code, many.json()["field"]) == (400, "texts")
    assert (long.status_code, long.json()["field"]) == (400, "texts.1")
    assert document["components"]["schemas"]["EmbedBatchBody"]["properties"]["texts"]["maxItems"] == 2


@pytest.mark.parametrize("wanted", ["0", "-1", "1.5", "soon", "9" * 5000])
async def test_a_time_that_is_none(facade_app: FacadeApp, wanted: str) -> None:
    async with facade_app() as running:
        answer = await running.client.post(
            "/embed", json={"text": "a"}, headers={"x-request-timeout-ms": wanted}
        )
    assert (answer.status_code, answer.json()["field"]) == (400, "x-request-timeout-ms")


async def test_a_time_that_is_too_short(facade_app: FacadeApp) -> None:
    body = {"texts": [f"a cat {number} " * 20 for number in range(200)]}
    async with facade_app() as running:
        answer = await running.client.post("/embed/batch", json=body, headers={"x-request-timeout-ms": "1"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
