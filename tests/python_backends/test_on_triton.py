"""The backends inside the real tritonserver, with toy graphs behind a real tokenizer."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as grpc_aio
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

import python_backends
from python_backends.metrics import INTERVAL
from tritonforge.server.options import ServerOptions
from tritonforge.server.process import TritonServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIM = 8
TEXTS = [
    "hi",
    "a somewhat longer text than the others",
    "",
    "naïve 東京 🙂",
    "two\0parts",
    "x y z",
    "end.",
    "ok",
]


def config(
    name: str,
    parameters: dict[str, str],
    inputs: Sequence[tuple[str, int, int]],
    outputs: Sequence[tuple[str, int, int]],
    *,
    instances: int = 1,
    delay_us: int = 5000,
    max_batch_size: int = 32,
) -> pb.ModelConfig:
    return pb.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=max_batch_size,
        input=[
            pb.ModelInput(name=key, data_type=kind, dims=[size], allow_ragged_batch=size < 0)
            for key, kind, size in inputs
        ],
        output=[pb.ModelOutput(name=key, data_type=kind, dims=[size]) for key, kind, size in outputs],
        dynamic_batching=pb.ModelDynamicBatching(max_queue_delay_microseconds=delay_us),
        instance_group=[pb.ModelInstanceGroup(count=instances, kind=pb.ModelInstanceGroup.KIND_CPU)],
        parameters={key: pb.ModelParameter(string_value=value) for key, value in parameters.items()},
    )


def write(repository: Path, model: pb.ModelConfig, kind: str | None) -> Path:
    version = repository / model.name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(text_format.MessageToString(model))
    if kind:
        source = Path(python_backends.__file__).parent
        shutil.copytree(source, version / "served_backends", ignore=shutil.ignore_patterns("__pycache__"))
        shim = (
            f"from served_backends.{kind}.model import TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
        )
        (version / "model.py").write_text(shim)
    return version


def write_engine(repository: Path, toy: Any, name: str, *, work: int = 0, **changes: Any) -> None:
    parameters = {
        "engine": "onnxruntime",
        "model_file": "model.onnx",
        "layout": "packed",
        "task": "embedding",
        "threads": "1",
        "vocab_size": "30522",
        **{
            key: str(changes.pop(key))
            for key in ("layout", "task", "token_budget", "engine")
            if key in changes
        },
    }
    outputs = [("embedding", pb.TYPE_FP32, DIM)]
    if parameters["task"] == "classification":
        outputs = [("label", pb.TYPE_STRING, 1), ("score", pb.TYPE_FP32, 1), ("scores", pb.TYPE_FP32, DIM)]
    model = config(name, parameters, [("input_ids", pb.TYPE_INT32, -1)], outputs, **changes)
    folder = write(repository, model, "encoder")
    output = "scores" if parameters["task"] == "classification" else "embedding"
    toy.save(folder / "model.onnx", layout=parameters["layout"], output=output, work=work)
    (folder / "labels.txt").write_text("".join(f"label {index}\n" for index in range(DIM)))


def write_fused(repository: Path, toy: Any, tokenizer_json: Path) -> None:
    """Tokenizer and engine in one model."""
    parameters = {
        "engine": "onnxruntime",
        "model_file": "model.onnx",
        "task": "embedding",
        "threads": "1",
        "tokenizer_threads": "1",
        "max_length": "100",
        "max_text_bytes": "1000",
        "vocab_size": "30522",
    }
    outputs = [("embedding", pb.TYPE_FP32, DIM), ("token_count", pb.TYPE_INT32, 1)]
    folder = write(
        repository, config("toy_fused", parameters, [("text", pb.TYPE_STRING, 1)], outputs), "fused"
    )
    shutil.copy(tokenizer_json, folder / "tokenizer.json")
    toy.save(folder / "model.onnx", layout="packed", output="embedding", work=0)


def write_ensemble(repository: Path, name: str, tokenizer: str, engine: str) -> None:
    step = pb.ModelEnsembling.Step
    model = pb.ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=8,
        input=[pb.ModelInput(name="text", data_type=pb.TYPE_STRING, dims=[1])],
        output=[pb.ModelOutput(name="embedding", data_type=pb.TYPE_FP32, dims=[DIM])],
        ensemble_scheduling=pb.ModelEnsembling(
            step=[
                step(
                    model_name=tokenizer,
                    model_version=-1,
                    input_map={"text": "text"},
                    output_map={"input_ids": "ids"},
                ),
                step(
                    model_name=engine,
                    model_version=-1,
                    input_map={"input_ids": "ids"},
                    output_map={"embedding": "embedding"},
                ),
            ]
        ),
    )
    write(repository, model, None)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, toy: Any, tokenizer_json: Path
) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    limits = {"max_length": "100", "max_text_bytes": "1000", "threads": "1"}
    text, ids = [("text", pb.TYPE_STRING, 1)], [("input_ids", pb.TYPE_INT32, -1)]
    folder = write(repository, config("toy_tokenizer", limits, text, ids), "tokenizer")
    shutil.copy(tokenizer_json, folder / "tokenizer.json")
    write_engine(repository, toy, "toy_engine", instances=2, token_budget=256)
    write_ensemble(repository, "toy", "toy_tokenizer", "toy_engine")
    write_fused(repository, toy, tokenizer_json)
    write_engine(repository, toy, "toy_openvino", engine="openvino")
    write_engine(repository, toy, "toy_padded", layout="padded", token_budget=64)
    write_engine(repository, toy, "toy_classes", task="classification")
    # A sequence of a hundred tokens makes a run of its own, which takes tens of milliseconds.
    write_engine(
        repository, toy, "toy_slow", work=240, token_budget=100, max_batch_size=8, delay_us=60_000_000
    )
    write_engine(repository, toy, "toy_broken", token_budget="lots")
    models = ("toy", "toy_fused", "toy_openvino", "toy_padded", "toy_classes", "toy_slow")
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, models=models)
    with TritonServer(repository, options) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: TritonServer) -> AsyncIterator[grpc_aio.InferenceServerClient]:
    async with grpc_aio.InferenceServerClient(server.grpc_url) as connection:
        yield connection


def text_input(texts: Sequence[str | bytes]) -> grpc_aio.InferInput:
    raw = [[text.encode() if isinstance(text, str) else text] for text in texts]
    value = grpc_aio.InferInput("text", [len(raw), 1], "BYTES")
    value.set_data_from_numpy(np.array(raw, dtype=object).reshape(len(raw), 1))
    return value


def ids_input(matrix: np.ndarray) -> grpc_aio.InferInput:
    value = grpc_aio.InferInput("input_ids", list(matrix.shape), "INT32")
    value.set_data_from_numpy(matrix)
    return value


async def embed(client: Any, texts: Sequence[str | bytes], model: str = "toy") -> np.ndarray:
    result = await client.infer(model, [text_input(texts)])
    rows: np.ndarray = result.as_numpy("embedding")
    return rows


class Metrics:
    """Differences of metrics since the object was made, summed over the series that match."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.before = self.read()

    @classmethod
    async def start(cls, server: TritonServer) -> Metrics:
        """Begin after the counts of earlier requests have been handed over."""
        made, last = cls(server.metrics_url), None
        while last != (last := made.counts()):
            await asyncio.sleep(2 * INTERVAL)
            made = cls(server.metrics_url)
        return made

    def counts(self) -> dict[str, float]:
        """Those that stand still when nobody asks."""
        kinds = ("nv_inference_count", "nv_inference_exec_count", "tritonforge_")
        return {
            name: value
            for name, value in self.before.items()
            if name.startswith(kinds) and not name.startswith("tritonforge_stub_")
        }

    def read(self) -> dict[str, float]:
        lines = re.findall(
            r"^([a-z]\S*\{.*?\}) (\S+)$", httpx.get(self.url, timeout=60, trust_env=False).text, re.M
        )
        return {name: float(value) for name, value in lines}

    def since(self, name: str, *labels: str) -> float:
        return sum(
            value - self.before.get(series, 0)
            for series, value in self.read().items()
            if series.startswith(name + "{") and all(label in series for label in labels)
        )

    async def reaches(self, value: float, name: str, *labels: str, pause: float = 2 * INTERVAL) -> None:
        """Wait for the hand-over in the background, then demand the exact value after a pause."""
        deadline = time.monotonic() + 60
        while self.since(name, *labels) != value and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await asyncio.sleep(pause)
        assert self.since(name, *labels) == value


@pytest.mark.parametrize("model", ["toy", "toy_fused"])
@pytest.mark.parametrize("count", range(1, 9))
async def test_one_row_for_each_text(
    client: Any, toy: Any, token_ids: Callable[[str], list[int]], count: int, model: str
) -> None:
    rows = await embed(client, TEXTS[:count], model)
    expected = np.stack([toy.expected(token_ids(text)) for text in TEXTS[:count]])
    np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize("model", ["toy", "toy_fused"])
async def test_a_long_text_is_cut_and_counted(
    server: TritonServer, client: Any, toy: Any, token_ids: Callable[[str], list[int]], model: str
) -> None:
    metrics = await Metrics.start(server)
    ids = token_ids("word " * 110)
    (row,) = await embed(client, ["word " * 110], model)
    np.testing.assert_allclose(row, toy.expected([*ids[:99], ids[-1]]), atol=1e-4)
    await metrics.reaches(1, "tritonforge_truncated_texts_total")


@pytest.mark.parametrize("model", ["toy", "toy_fused"])
async def test_bad_requests_among_good_ones(
    server: TritonServer, client: Any, toy: Any, token_ids: Callable[[str], list[int]], model: str
) -> None:
    metrics = await Metrics.start(server)
    answers = await asyncio.gather(
        *(embed(client, [f"text {number}"], model) for number in range(10)),
        embed(client, ["good", b"\xff\xfe"], model),
        embed(client, ["x" * 1001], model),
        *(embed(client, [f"text {number}", "more"], model) for number in range(10)),
        return_exceptions=True,
    )
    utf8, large = answers.pop(10), answers.pop(10)
    assert isinstance(utf8, InferenceServerException)
    assert "index 1 is not valid UTF-8" in str(utf8)
    assert isinstance(large, InferenceServerException)
    assert "1001 bytes, 1000 are allowed" in str(large)
    for number, rows in enumerate(answers):
        np.testing.assert_allclose(rows[0], toy.expected(token_ids(f"text {number % 10}")), atol=1e-4)
    await metrics.reaches(1, "tritonforge_rejected_requests_total", 'reason="invalid_utf8"')
    await metrics.reaches(2, "tritonforge_rejected_requests_total")


async def test_fused_gives_only_what_is_requested(
    server: TritonServer, client: Any, token_ids: Callable[[str], list[int]]
) -> None:
    metrics = await Metrics.start(server)
    wanted = [grpc_aio.InferRequestedOutput("token_count")]
    result = await client.infer("toy_fused", [text_input(TEXTS)], outputs=wanted)
    assert result.as_numpy("token_count")[:, 0].tolist() == [len(token_ids(text)) for text in TEXTS]
    assert result.as_numpy("embedding") is None
    tokens = sum(len(token_ids(text)) for text in TEXTS)
    for counter in ("tritonforge_tokenized_tokens_total", "tritonforge_tokens_total"):
        await metrics.reaches(tokens, counter, 'model="toy_fused"')


async def test_a_request_without_texts_is_an_error(client: Any) -> None:
    with pytest.raises(InferenceServerException):
        await embed(client, [])
    assert (await embed(client, ["still there"])).shape == (1, DIM)


async def test_concurrent_requests_of_many_lengths_are_batched_without_padding(
    server: TritonServer, client: Any, toy: Any, token_ids: Callable[[str], list[int]]
) -> None:
    metrics = await Metrics.start(server)
    texts = [" ".join(["word"] * (1 + number % 25)) for number in range(200)]
    answers = await asyncio.gather(*(embed(client, [text]) for text in texts))
    expected = np.stack([toy.expected(token_ids(text)) for text in texts])
    np.testing.assert_allclose(np.concatenate(answers), expected, atol=1e-4)

    engine = 'model="toy_engine"'
    assert metrics.since("nv_inference_count", engine) == 200
    assert metrics.since("nv_inference_exec_count", engine) < 100
    tokens = sum(len(token_ids(text)) for text in texts)
    await metrics.reaches(tokens, "tritonforge_tokenized_tokens_total")
    await metrics.reaches(tokens, "tritonforge_tokens_total", engine)
    await metrics.reaches(200, "tritonforge_sequences_total", engine, 'version="1"')
    runs = metrics.since("tritonforge_runs_total", engine)
    assert runs == metrics.since("tritonforge_run_tokens_bucket", engine, 'le="+Inf"')
    # The token budget of 256 is a bound of the buckets, so every run is in it.
    assert runs == metrics.since("tritonforge_run_tokens_bucket", engine, 'le="256"')
    assert metrics.since("tritonforge_padding_avoided_tokens_total", engine) > 0


@pytest.mark.parametrize("name", ["toy_openvino", "toy_padded"])
async def test_other_engine_and_layout(client: Any, toy: Any, name: str) -> None:
    matrices = [np.arange(1, size, dtype=np.int32)[None] for size in range(2, 40)]
    answers = await asyncio.gather(*(client.infer(name, [ids_input(matrix)]) for matrix in matrices))
    for matrix, answer in zip(matrices, answers, strict=True):
        expected = toy.expected(matrix[0].tolist())
        np.testing.assert_allclose(answer.as_numpy("embedding")[0], expected, atol=1e-4)


async def test_classification_gives_only_what_is_requested(client: Any, toy: Any) -> None:
    matrix = np.array([[4, 5], [6, -1]], np.int32)
    wanted = [grpc_aio.InferRequestedOutput(name) for name in ("label", "score")]
    result = await client.infer("toy_classes", [ids_input(matrix)], outputs=wanted)
    scores = np.stack([toy.expected([4, 5]), toy.expected([6])])
    labels = [[f"label {index}".encode()] for index in scores.argmax(axis=1)]
    assert result.as_numpy("label").tolist() == labels
    np.testing.assert_allclose(result.as_numpy("score")[:, 0], scores.max(axis=1), atol=1e-4)
    assert result.as_numpy("scores") is None
    whole = await client.infer("toy_classes", [ids_input(matrix)])
    np.testing.assert_allclose(whole.as_numpy("scores"), scores, atol=1e-4)


async def test_bad_ids_fail_alone(client: Any, toy: Any) -> None:
    good = [np.full((1, size), size, np.int32) for size in range(1, 10)]
    bad = [np.array([[-1, -1]], np.int32), np.array([[3, 30522]], np.int32)]
    answers = await asyncio.gather(
        *(client.infer("toy_engine", [ids_input(matrix)]) for matrix in [*bad, *good]),
        return_exceptions=True,
    )
    assert "only filler" in str(answers[0])
    assert "vocabulary ends at 30521" in str(answers[1])
    for matrix, answer in zip(good, answers[2:], strict=True):
        np.testing.assert_allclose(
            answer.as_numpy("embedding")[0], toy.expected(matrix[0].tolist()), atol=1e-4
        )


async def test_cancelled_requests_are_dropped_between_runs(
    server: TritonServer, client: Any, toy: Any
) -> None:
    metrics = await Metrics.start(server)
    matrix = np.full((1, 100), 7, np.int32)
    # Eight make a batch at once, and each of them a run of its own; seven wait for the eighth.
    calls = []
    for count, waiting in ((7, 7), (1, 0)):
        calls += [asyncio.create_task(client.infer("toy_slow", [ids_input(matrix)])) for _ in range(count)]
        await metrics.reaches(waiting, "nv_inference_pending_request_count", 'model="toy_slow"', pause=0)
    for call in calls[1::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers[::2]:
        np.testing.assert_allclose(answer.as_numpy("embedding")[0], toy.expected([7] * 100), atol=1e-3)

    # What ran before the cancellation arrived was computed; the rest was not.
    await metrics.reaches(1, "nv_inference_exec_count", 'model="toy_slow"')
    dropped = metrics.since("tritonforge_cancelled_requests_total", 'model="toy_slow"')
    assert 1 <= dropped <= 4
    await metrics.reaches((8 - dropped) * 100, "tritonforge_tokens_total", 'model="toy_slow"')


async def test_a_wrong_parameter_stops_the_load_and_is_named(client: Any) -> None:
    with pytest.raises(InferenceServerException) as error:
        await client.load_model("toy_broken")
    assert "parameters['token_budget'] in config.pbtxt is 'lots'" in str(error.value)


async def test_a_reload_keeps_the_counters(server: TritonServer, client: Any) -> None:
    await embed(client, ["before"])
    metrics = await Metrics.start(server)
    await client.load_model("toy_engine")
    await embed(client, ["after"])
    await metrics.reaches(1, "tritonforge_sequences_total", 'model="toy_engine"')
