"""Every tiny architecture in one repository on one server, from text to answer, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import Client
from clients.errors import InvalidRequestError
from tritonforge.server import ServerOptions, TritonServer

ENCODERS = [
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "electra",
    "modernbert",
    "albert",
    "deberta-v2",
]
SERVED = [(name, task) for name in ENCODERS for task in ("embedding", "classification")]
SERVED.append(("qwen3", "embedding"))

LABELS = ["calm", "glad", "sad"]
TEXTS = [
    "A door opens by itself.",
    "",
    "rain",
    "The council said on Tuesday that the bridge would stay closed for repairs until the end of the year.",
    "你好世界 今天天气很好",
    "Привет, мир! مرحبا بالعالم 🙂🚀",
    "a <pad> b [PAD] c </s> d",
    "fire " * 100,  # beyond the 64 tokens that the models take
]


@pytest.fixture(scope="module")
def server(
    tiny_build: Callable[[str, str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """All of them; those that other tests built are not built again."""
    repository = {tiny_build(*each).context.repository for each in SERVED}.pop()
    log = tmp_path_factory.mktemp("log") / "tiny-server.log"
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with log.open("wb") as sink, TritonServer(repository, options, log_sink=sink) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "task"), SERVED)
def test_agrees_with_transformers(
    server: TritonServer,
    tiny_model: Callable[..., Path],
    transformers_answer: Callable[..., Any],
    architecture: str,
    task: str,
) -> None:
    # Qwen's tokenizer adds no special tokens, so an empty text is no token at all.
    texts = [text for text in TEXTS if text or architecture != "qwen3"]
    expected = transformers_answer(tiny_model(architecture, task), texts)
    with Client(server.grpc_url, f"{architecture}-{task}") as client, ThreadPoolExecutor(8) as pool:

        def ask(texts: list[str]) -> Any:
            return client.embed(texts) if task == "embedding" else client.classify(texts)

        together = ask(texts)
        singly = list(pool.map(lambda text: ask([text]), texts))
    if task == "embedding":
        np.testing.assert_allclose(together, expected, atol=1e-4)
        np.testing.assert_allclose(np.concatenate(singly), expected, atol=1e-4)
        return
    np.testing.assert_allclose(together.scores, expected, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([each.scores for each in singly]), expected, atol=1e-4)
    for row, (label, score) in zip(expected, together.predictions, strict=True):
        best, second = np.sort(row)[:-3:-1]
        assert score == pytest.approx(best, abs=1e-4)
        if best - second > 1e-3:
            assert label == LABELS[int(row.argmax())]


@pytest.mark.slow
def test_a_text_without_any_token_is_refused(server: TritonServer) -> None:
    with (
        Client(server.grpc_url, "qwen3-embedding") as client,
        pytest.raises(InvalidRequestError, match="index 0 gives no token"),
    ):
        client.embed([""])


@pytest.mark.slow
def test_triton_s_classification_extension_knows_the_labels(
    server: TritonServer, tiny_model: Callable[..., Path], transformers_answer: Callable[..., Any]
) -> None:
    import tritonclient.grpc as triton

    (expected,) = transformers_answer(tiny_model("bert", "classification"), TEXTS[:1])
    text = triton.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[TEXTS[0].encode()]], np.object_))
    wanted = [triton.InferRequestedOutput("scores", class_count=3)]
    with triton.InferenceServerClient(server.grpc_url) as client:
        rows = client.infer("bert-classification", [text], outputs=wanted).as_numpy("scores")
    found = [entry.decode().split(":") for entry in rows[0]]
    assert [int(index) for _, index, _ in found] == np.argsort(-expected).tolist()
    assert [label for *_, label in found] == [LABELS[int(index)] for _, index, _ in found]
    np.testing.assert_allclose([float(score) for score, *_ in found], np.sort(expected)[::-1], atol=1e-4)
