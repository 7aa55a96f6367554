"""What should not be sent: an error for that request alone, while good ones are answered beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from clients import Client
from tritonforge.server import TritonServer

GOOD = "A door opens by itself."


@pytest.fixture(scope="module")
def raw(minilm_server: TritonServer) -> Iterator[triton.InferenceServerClient]:
    """tritonclient itself: it sends what it is told."""
    with triton.InferenceServerClient(minilm_server.grpc_url) as client:
        yield client


@pytest.fixture
def neighbours(minilm_server: TritonServer) -> Iterator[list[NDArray[np.float32]]]:
    """Good requests all the time, from four connections; every one must be answered, and right."""
    stop = threading.Event()
    answers: list[NDArray[np.float32]] = []

    def ask() -> None:
        with Client(minilm_server.grpc_url, "minilm") as client:
            while not stop.is_set():
                answers.append(client.embed([GOOD]))

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        yield answers
        seen = len(answers)
        while len(answers) < seen + 8 and not any(each.done() for each in asking):
            stop.wait(0.05)
        stop.set()
        for each in asking:
            each.result()
    assert len(answers) >= 8
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)


def send(client: triton.InferenceServerClient, array: NDArray[Any], kind: str = "BYTES") -> Any:
    tensor = triton.InferInput("text", list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return client.infer("minilm", [tensor]).as_numpy("embedding")


def texts(*values: bytes) -> NDArray[np.object_]:
    return np.array(values, np.object_).reshape(-1, 1)


Neighbours = list[NDArray[np.float32]]

REFUSED: dict[str, tuple[NDArray[Any], str, list[str]]] = {
    "10 MB": (texts(b"word " * 2_000_000), "BYTES", ["10000000 bytes", "1048576 are allowed"]),
    "10 MB among others": (
        texts(b"fine", b"x" * 10_000_000, b"fine"),
        "BYTES",
        ["text at index 1", "10000000 bytes"],
    ),
    "invalid UTF-8": (texts(b"fine", b"\xff\xfe"), "BYTES", ["text at index 1", "not valid UTF-8"]),
    "a cut character": (texts("naïve".encode()[:3]), "BYTES", ["not valid UTF-8"]),
    "a lone surrogate": (texts(b"\xed\xa0\x80"), "BYTES", ["not valid UTF-8"]),
    "no texts": (np.zeros((0, 1), np.object_), "BYTES", []),
    "65 texts": (texts(*[b"x"] * 65), "BYTES", ["batch-size must be <= 64"]),
    "two texts in a row": (np.array([[b"a", b"b"]], np.object_), "BYTES", ["shape"]),
    "one dimension": (np.array([b"a"], np.object_), "BYTES", ["shape"]),
    "three dimensions": (np.array([[[b"a"]]], np.object_), "BYTES", ["shape"]),
    "numbers": (np.array([[1]], np.int32), "INT32", ["data-type", "INT32"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(raw: triton.InferenceServerClient, neighbours: Neighbours, case: str) -> None:
    array, kind, says = REFUSED[case]
    for _ in range(3):
        with pytest.raises(InferenceServerException) as caught:
            send(raw, array, kind)
        assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL")
        for part in says:
            assert part in caught.value.message()


ODD = {
    "empty": b"",
    "NUL": b"\x00",
    "NUL inside": b"a\x00b" * 50,
    "whitespace": b" \t\r\n\x0b\x0c",
    "a megabyte": b"word " * 200_000,
    "one word of a megabyte": b"x" * 1_000_000,
    "control characters": bytes(range(32)),
    "combining": "e\u0301\u0301\u0301".encode() * 1000,
    "zero width": "\u200b\u200d\ufeff".encode() * 100,
    "right to left marks": "\u202e\u2067abc".encode(),
    "noncharacters": "\uffff\U0010ffff".encode(),
    "special tokens": b"[CLS] [SEP] [PAD]",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_but_answered(
    raw: triton.InferenceServerClient, neighbours: Neighbours, minilm: Any, case: str
) -> None:
    rows = send(raw, texts(GOOD.encode(), ODD[case], GOOD.encode()))
    assert rows.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-5)
    np.testing.assert_allclose(rows[1:2], send(raw, texts(ODD[case])), atol=1e-5)


def test_all_of_it_at_once(
    raw: triton.InferenceServerClient, minilm_server: TritonServer, neighbours: Neighbours
) -> None:
    def attempt(number: int) -> str:
        array, kind, _ = list(REFUSED.values())[number % len(REFUSED)]
        try:
            send(raw, array, kind)
        except InferenceServerException as error:
            return str(error.message())
        return ""

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(attempt, range(44)))
    with Client(minilm_server.grpc_url, "minilm") as client:
        assert client.ready()


@pytest.mark.parametrize(
    "body",
    [
        b" ",  # nothing at all would be Triton's raw form of the empty text
        b"{",
        b"null",
        b'{"inputs": []}',
        b'{"inputs": [{"name": "txt", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [1]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1], "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["\xff"]}]}',
        b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["\\ud800"]}]}',
    ],
)
def test_http_bodies_that_are_wrong(minilm_server: TritonServer, neighbours: Neighbours, body: bytes) -> None:
    url = f"{minilm_server.http_url}/v2/models/minilm/infer"
    answer = httpx.post(url, content=body, timeout=120, trust_env=False)
    assert answer.status_code in (400, 500)
    assert answer.json()["error"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_client_library_says_it_as_well(minilm_server: TritonServer, protocol: Any) -> None:
    from clients.errors import InvalidRequestError

    url = minilm_server.grpc_url if protocol == "grpc" else minilm_server.http_address
    with Client(url, "minilm", protocol=protocol) as client:
        for wrong in (b"\xff", b"x" * 10_000_000):
            with pytest.raises(InvalidRequestError, match="text at index 0"):
                client.embed([wrong])
        assert client.embed([]).shape == (0, 384)
        assert client.embed(["x"] * 65).shape == (65, 384)
