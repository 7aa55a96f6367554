"""All four clients against a real tritonserver, with a toy model that can misbehave on demand."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from clients import (
    AsyncClient,
    Client,
    ClientError,
    InvalidRequestError,
    ModelNotFoundError,
    RequestTimeoutError,
    RetryPolicy,
    ServerFaultError,
    UnavailableError,
)
from clients.core import ModelMetadata
from tests.clients.driver import QUICK, Driver, expected, own_regions, released, sentences
from tests.clients.open_files import open_files
from tritonforge.server import TritonServer


def requests_seen(server: TritonServer, at_least: int = 0, pause: float = 0.05) -> int:
    """Requests that the server answered until now; it counts a moment after it has answered.

    Failed ones too: where a Python model answers with an error, Triton counts the request as a success.
    """
    deadline, seen, last = time.monotonic() + 60, -1, -2
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        while (seen != last or seen < at_least) and time.monotonic() < deadline:
            time.sleep(pause * (last >= 0))
            stats = client.get_inference_statistics("toy_embedder").model_stats[0].inference_stats
            seen, last = int(stats.success.count + stats.fail.count), seen
    return seen


def requests_when_quiet(server: TritonServer) -> int:
    """The same, once those are counted that a failed call left in flight."""
    return requests_seen(server, pause=0.5)


# Texts in, numbers out


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_embed(drive: Driver, count: int) -> None:
    texts = sentences(count)
    vectors = drive(lambda client: client.embed(texts))
    assert vectors.dtype == np.float32
    assert vectors.shape == (count, 8)
    np.testing.assert_array_equal(vectors, expected(texts))


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_embed_shared_memory(drive_shm: Driver, count: int) -> None:
    texts = sentences(count)
    np.testing.assert_array_equal(drive_shm(lambda client: client.embed(texts)), expected(texts))


@pytest.mark.parametrize("count", [0, 1, 7, 200])
@pytest.mark.parametrize("shm", [False, True], ids=["socket", "shm"])
def test_classify(drive: Driver, drive_shm: Driver, count: int, shm: bool) -> None:
    texts = sentences(count)
    answer = (drive_shm if shm else drive)(lambda client: client.classify(texts), model="toy_classifier")
    scores = expected(texts)[:, :2]
    scores = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answer.scores, scores, rtol=1e-6)
    assert answer.scores.shape == (count, 2)
    assert [label for label, _ in answer.predictions] == [("ham", "spam")[i] for i in scores.argmax(axis=1)]
    assert [score for _, score in answer.predictions] == pytest.approx(list(scores.max(axis=1, initial=0)))


def test_long_list_is_split_by_the_models_limit(server: TritonServer, drive: Driver) -> None:
    before = requests_seen(server)
    drive(lambda client: client.embed(sentences(200)))
    assert requests_seen(server, before + 7) - before == 7  # max_batch_size is 32
    drive(lambda client: client.embed(sentences(200)), batch_size=20)
    assert requests_seen(server, before + 17) - before == 7 + 10


def test_empty_list_sends_no_inference(server: TritonServer, drive: Driver) -> None:
    before = requests_seen(server)
    drive(lambda client: client.embed([]))
    assert requests_seen(server) == before


def test_bytes_iterables_and_odd_texts(drive: Driver) -> None:
    texts = ["", "a\0b", "x" * 100_000, "🙂"]
    vectors = drive(lambda client: client.embed(text.encode() for text in texts))
    np.testing.assert_array_equal(vectors, expected(texts))
    vectors = drive(lambda client: client.embed(np.array(["ab", "c"])))
    np.testing.assert_array_equal(vectors, expected(["ab", "c"]))


def test_result_belongs_to_the_caller(drive: Driver) -> None:
    vectors = drive(lambda client: client.embed(["one"]))
    vectors *= 2  # a view of the message would be read-only


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("hello", r"wrap it, \[text\]"),
        (b"hello", r"wrap it, \[text\]"),
        (["fine", 3], r"texts\[1\] must be str or bytes, not int"),
        (["fine", "fine", None], r"texts\[2\] must be str or bytes, not NoneType"),
    ],
)
def test_wrong_types_name_the_index(drive: Driver, texts: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        drive(lambda client: client.embed(texts))


def test_lone_surrogate(drive: Driver) -> None:
    with pytest.raises(ValueError, match=r"texts\[1\] cannot be written as UTF-8"):
        drive(lambda client: client.embed(["fine", "\ud83d"]))


def test_64_concurrent_calls(server: TritonServer, protocol: str) -> None:
    texts = sentences(64)

    def embed_all(client: AsyncClient) -> Any:
        return asyncio.gather(*(client.embed([text]) for text in texts))

    vectors = Driver(server, AsyncClient, protocol, shm=False)(embed_all)
    np.testing.assert_array_equal(np.concatenate(vectors), expected(texts))


@pytest.mark.parametrize("shm", [False, True], ids=["socket", "shm"])
def test_one_client_for_many_threads(server: TritonServer, protocol: str, shm: bool) -> None:
    texts = sentences(64)

    def embed_all(client: Client) -> Any:
        with ThreadPoolExecutor(16) as threads:
            return list(threads.map(lambda start: client.embed(texts[start:]), range(64)))

    answers = Driver(server, Client, protocol, shm)(embed_all)
    for start, vectors in enumerate(answers):
        np.testing.assert_array_equal(vectors, expected(texts[start:]))
    assert own_regions() == []


# Retries


def test_unavailable_is_retried(server: TritonServer, drive: Driver) -> None:
    before = requests_seen(server)
    text = f"!unavailable 2 {uuid.uuid4().hex}"
    vectors = drive(lambda client: client.embed([text]), retry=QUICK)
    np.testing.assert_array_equal(vectors, expected([text]))
    assert requests_seen(server, before + 3) - before == 3


def test_retries_are_bounded(server: TritonServer, drive: Driver) -> None:
    before = requests_seen(server)
    text = f"!unavailable 99 {uuid.uuid4().hex}"
    with pytest.raises(UnavailableError, match="asked to be unavailable") as caught:
        drive(lambda client: client.embed([text]), retry=QUICK)
    assert caught.value.status == "UNAVAILABLE"
    assert requests_seen(server, before + QUICK.attempts) - before == QUICK.attempts


def test_one_bad_chunk_fails_the_call_and_nothing_is_repeated(server: TritonServer, drive: Driver) -> None:
    texts = sentences(200)
    texts[100] = "!invalid"
    before = requests_when_quiet(server)
    with pytest.raises(InvalidRequestError, match="asked to be invalid"):
        drive(lambda client: client.embed(texts), retry=QUICK)
    assert requests_when_quiet(server) - before <= 7


@pytest.mark.parametrize(
    ("text", "error"), [("!invalid", InvalidRequestError), ("!internal", ServerFaultError)]
)
def test_other_errors_are_not_retried(
    server: TritonServer, drive: Driver, text: str, error: type[ClientError]
) -> None:
    before = requests_seen(server)
    with pytest.raises(error, match="asked to"):
        drive(lambda client: client.embed([text]), retry=QUICK)
    assert requests_seen(server, before + 1) - before == 1


def test_timeout_is_honoured_and_not_retried(server: TritonServer, drive: Driver, tmp_path: Path) -> None:
    before = requests_seen(server)
    end = tmp_path / "end"
    with released(end), pytest.raises(RequestTimeoutError) as caught:
        drive(lambda client: client.embed([f"!until {end}"]), timeout=0.4, retry=QUICK)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert "timeout" in (caught.value.hint or "")
    drive(lambda client: client.embed(["next"]))  # waits behind the sleeper
    # One or two: a gRPC request that its client gave up may go uncounted.
    assert requests_seen(server) - before <= 2


def test_nobody_listens(kind: Any, protocol: str) -> None:
    # Port 1 (tcpmux) is privileged and unused.
    class Nowhere:
        grpc_url = http_address = "127.0.0.1:1"

    drive = Driver(Nowhere(), kind, protocol, shm=False)
    start = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        drive(lambda client: client.embed(["a"]), retry=RetryPolicy(attempts=3, first_delay=0.2))
    assert time.monotonic() - start > 0.1 + 0.2, "it did not pause between the tries"
    assert caught.value.hint
    assert drive(lambda client: client.ready()) is False


def test_a_server_that_is_slow_to_accept_is_waited_for(server: TritonServer, drive: Driver) -> None:
    """Stopped: the kernel accepts the connection, and gRPC's first frame from the server is late."""
    wakes = threading.Timer(0.7, os.kill, (server.pid, signal.SIGCONT))
    os.kill(server.pid, signal.SIGSTOP)
    wakes.start()
    try:
        vectors = drive(lambda client: client.embed(["late"]), retry=RetryPolicy(attempts=1))
    finally:
        wakes.join()
    np.testing.assert_array_equal(vectors, expected(["late"]))


# What the server says


def test_ready_and_metadata(drive: Driver) -> None:
    assert drive(lambda client: client.ready()) is True
    metadata: ModelMetadata = drive(lambda client: client.metadata())
    assert (metadata.name, metadata.versions, metadata.max_batch_size) == ("toy_embedder", ("1",), 32)
    assert metadata.output("embedding").shape == (-1, 8)
    assert [spec.name for spec in metadata.inputs] == ["text"]


def test_unknown_model(drive: Driver) -> None:
    assert drive(lambda client: client.ready(), model="absent") is False
    with pytest.raises(ModelNotFoundError, match="absent"):
        drive(lambda client: client.embed(["a"]), model="absent")


def test_wrong_method_for_the_model(drive: Driver) -> None:
    with pytest.raises(InvalidRequestError, match=r"no output 'label'.*\n.*classify\(\) on classification"):
        drive(lambda client: client.classify(["a"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://localhost:8000"}, "localhost:8000"),
        ({"protocol": "websocket"}, "grpc"),
        ({"timeout": 0}, "timeout"),
        ({"concurrency": 0}, "concurrency"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_settings(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{"url": "localhost:8001", "model": "m", **settings})


def test_closed_client(drive: Driver) -> None:
    client = drive(lambda client: client)
    with pytest.raises(ClientError, match="closed"):
        drive(lambda _: client.embed(["a"]))


# Connections


def test_no_file_descriptors_left(server: TritonServer, drive: Driver) -> None:
    drive(lambda client: client.embed(sentences(200)))
    before = open_files()
    for _ in range(5):
        drive(lambda client: client.embed(sentences(200)))
    # gRPC's core closes its sockets a moment later, in its own threads.
    deadline = time.monotonic() + 60
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert open_files() <= before
