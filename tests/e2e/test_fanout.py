"""The fan-out of the TensorRT path on the real server, in front of an engine that runs on the CPU.

The same packed engine stands behind both: ``fan_*`` gets the rows of a request one by one, as Triton's
TensorRT backend wants them, and the plain ensemble gets them together.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from build_engines.repository.names import ModelNames
from clients import Client
from loadtest.bench_fanout import add_fanout, copy_model
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.watchdog import scan_stubs

TEXTS = [
    "A door opens by itself.",
    "rain",
    "The council said on Tuesday that the bridge would stay closed for repairs until the end of the year.",
    "你好世界 今天天气很好",
    "Привет, мир! 🙂🚀",
    "fire " * 100,  # beyond the 64 tokens that the models take
    "x",
    "so it goes",
]


@pytest.fixture(scope="module")
def server(
    tiny_build: Callable[[str, str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("fanned")
    for task in ("embedding", "classification"):
        built = tiny_build("bert", task)
        for model in ModelNames(built.context.recipe.name).all:
            copy_model(built.context.repository / model, repository / model)
        add_fanout(built.context.repository, built.context.recipe.name, repository)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = tmp_path_factory.mktemp("log") / "fanned.log"
    with log.open("wb") as sink, TritonServer(repository, options, log_sink=sink) as running:
        yield running


@pytest.fixture
def fan(server: TritonServer) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


def send_ids(client: grpc.InferenceServerClient, ids: Any, model: str = "fan_bert-embedding_fanout") -> Any:
    matrix = np.array(ids, np.int32)
    tensor = grpc.InferInput("input_ids", list(matrix.shape), "INT32")
    tensor.set_data_from_numpy(matrix)
    return client.infer(model, [tensor])


def metric(server: TritonServer, name: str, *labels: str) -> float:
    text = httpx.get(server.metrics_url, timeout=60, trust_env=False).text
    lines = re.findall(rf"^({name}\{{.*\}}) ([0-9.e+]+)$", text, re.MULTILINE)
    return sum(float(value) for series, value in lines if all(label in series for label in labels))


@pytest.mark.parametrize("count", [*range(1, 9), 64])
def test_b_texts_give_b_right_rows(
    server: TritonServer,
    tiny_model: Callable[..., Path],
    transformers_answer: Callable[..., Any],
    count: int,
) -> None:
    texts = (TEXTS * 8)[:count]
    tensor = grpc.InferInput("text", [count, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], np.object_))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        rows = client.infer("fan_bert-embedding", [tensor]).as_numpy("embedding")
    expected = transformers_answer(tiny_model("bert"), texts)
    assert rows.shape == expected.shape
    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_classes_are_those_of_the_direct_way(server: TritonServer) -> None:
    with (
        Client(server.grpc_url, "fan_bert-classification") as fanned,
        Client(server.grpc_url, "bert-classification") as direct,
    ):
        answer, expected = fanned.classify(TEXTS), direct.classify(TEXTS)
    assert [each.label for each in answer.predictions] == [each.label for each in expected.predictions]
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)


def test_only_what_is_requested_is_answered(fan: grpc.InferenceServerClient) -> None:
    tensor = grpc.InferInput("text", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"rain"], [b"x"]], np.object_))
    wanted = [grpc.InferRequestedOutput("label")]
    answer = fan.infer("fan_bert-classification", [tensor], outputs=wanted)
    assert answer.as_numpy("label").shape == (2, 1)
    assert answer.as_numpy("scores") is None


def test_mixed_clients_at_once(server: TritonServer) -> None:
    """Requests of 1 to 8 texts and of both models; each gets its own rows, and the engine gets batches."""
    with Client(server.grpc_url, "bert-embedding") as direct:
        expected = direct.embed(TEXTS)
    before = {
        name: metric(server, name, 'model="fan_bert-embedding_engine"')
        for name in ("nv_inference_count", "nv_inference_exec_count")
    }
    with (
        Client(server.grpc_url, "fan_bert-embedding") as embedder,
        Client(server.grpc_url, "fan_bert-classification") as classifier,
        ThreadPoolExecutor(16) as pool,
    ):
        starts = [number % len(TEXTS) for number in range(200)]
        answers = [pool.submit(embedder.embed, TEXTS[start:]) for start in starts]
        others = [pool.submit(classifier.classify, TEXTS[start:]) for start in starts]
        for start, answer in zip(starts, answers, strict=True):
            np.testing.assert_allclose(answer.result(), expected[start:], atol=1e-4)
        assert all(
            len(other.result().predictions) == len(TEXTS) - start
            for start, other in zip(starts, others, strict=True)
        )

    def grown(name: str) -> float:
        return metric(server, name, 'model="fan_bert-embedding_engine"') - before[name]

    asked = sum(len(TEXTS) - start for start in starts)
    deadline = time.monotonic() + 60
    while (rows := grown("nv_inference_count")) < asked and time.monotonic() < deadline:
        time.sleep(0.05)  # Triton counts a moment after it has answered
    runs = grown("nv_inference_exec_count")
    assert rows == asked
    assert runs < rows / 3


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([[5, 6, 7], [-1, -1, -1]], "row 1 of input_ids holds no token"),
        ([[5] * 65], "a sequence has 65 tokens; the model takes 64"),
        ([[5, 6], [5, 100_000]], "input_ids holds 100000; the vocabulary ends at"),
    ],
)
def test_what_the_engine_must_not_see(fan: grpc.InferenceServerClient, ids: Any, says: str) -> None:
    with pytest.raises(InferenceServerException, match=re.escape(says)):
        send_ids(fan, ids)


def test_bad_requests_among_good_ones(server: TritonServer, fan: grpc.InferenceServerClient) -> None:
    good = send_ids(fan, [[5, 6, 7], [8, 9, -1]]).as_numpy("embedding")
    with ThreadPoolExecutor(16) as pool:
        bad = [pool.submit(send_ids, fan, [[5, 6], [-1, -1]]) for _ in range(20)]
        fine = [pool.submit(send_ids, fan, [[5, 6, 7], [8, 9, -1]]) for _ in range(20)]
        for call in fine:
            np.testing.assert_allclose(call.result().as_numpy("embedding"), good, atol=1e-5)
        for call in bad:
            assert isinstance(call.exception(), InferenceServerException)


def test_an_engine_that_is_away(server: TritonServer, fan: grpc.InferenceServerClient) -> None:
    """Its error reaches the client, with the text that it concerns; it is served again once it is back."""
    engine = "fan_bert-classification_engine"
    model = "fan_bert-classification_fanout"
    before = send_ids(fan, [[5, 6], [7, 8]], model).as_numpy("scores")
    fan.unload_model(engine)
    deadline = time.monotonic() + 120
    while fan.is_model_ready(engine) and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(InferenceServerException, match=f"text at index 0: .*{engine}"):
        send_ids(fan, [[5, 6], [7, 8]], model)
    fan.load_model(engine)
    np.testing.assert_allclose(send_ids(fan, [[5, 6], [7, 8]], model).as_numpy("scores"), before, atol=1e-6)


def test_a_thousand_requests_leave_nothing_behind(server: TritonServer) -> None:
    def ask(requests: int) -> None:
        with Client(server.grpc_url, "fan_bert-embedding") as client, ThreadPoolExecutor(8) as pool:
            for call in [pool.submit(client.embed, TEXTS) for _ in range(requests)]:
                call.result()

    def used() -> tuple[int, int, int]:
        """Memory of the server and of the fan-outs, their threads, and shared memory.

        Not of the engine: OpenVINO keeps kernels of each shape it has met.
        """
        stubs = [psutil.Process(stub.pid) for stub in scan_stubs(server.pid)[0]]
        fanouts = [
            stub for stub in stubs if any("fan_bert-embedding_fanout/" in part for part in stub.cmdline())
        ]
        assert len(fanouts) == 2
        memory = sum(process.memory_info().rss for process in [psutil.Process(server.pid), *fanouts])
        regions = Path("/dev/shm").glob(f"{server._shm_prefix}*")
        shared = sum(region.stat().st_blocks * 512 for region in regions)
        return memory, sum(process.num_threads() for process in fanouts), shared

    ask(300)  # until pools have grown
    memory, _, shared = used()
    ask(1000)
    memory_after, threads_after, shared_after = used()
    assert threads_after <= 2 * (2 * 64 + 32)  # rows of each instance are bounded: twice max_batch_size
    assert memory_after - memory < 8 << 20
    assert shared_after - shared < 8 << 20


def test_a_stop_answers_what_is_fanned_out(server: TritonServer, tmp_path: Path) -> None:
    """The fan-out is unloaded before the engine that it calls, of which Triton knows nothing."""
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with (
        (tmp_path / "second.log").open("wb") as sink,
        TritonServer(server.repository, options, log_sink=sink) as second,
        ThreadPoolExecutor(16) as pool,
    ):
        errors: list[str] = []
        answered: list[Any] = []
        begun = threading.Event()

        def ask() -> None:
            with grpc.InferenceServerClient(second.grpc_url) as client:
                while True:
                    try:
                        answered.append(send_ids(client, [[5, 6, 7]] * 32))
                    except InferenceServerException as error:
                        errors.append(str(error))
                        return
                    if len(answered) > 64:
                        begun.set()

        calls = [pool.submit(ask) for _ in range(16)]
        assert begun.wait(120), errors
        assert second.stop() == 0
        for call in calls:
            call.result()
    # Refused at the door, not lost on the way to the engine.
    assert not [error for error in errors if "text at index" in error]
