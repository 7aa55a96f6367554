"""Triton's response cache, which looks an answer up by the inputs alone, and counts of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import Client
from tests.conftest import MAX_LENGTH, Build, TinyModel
from tritonforge.server import ServerOptions, TritonServer

TEXTS = ["glad", "a somewhat longer text", "word " * 200, ""]


@pytest.fixture(scope="module")
def model(tiny_model: TinyModel) -> Path:
    return tiny_model("bert", "classification")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, build_recipe: Build, model: Path
) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("cached")
    build_recipe(
        into=repository,
        name="sort",
        model=str(model),
        engine="onnxruntime",
        threads={"engine": 1},
        length_mix=[{"tokens": 8}],
        cache={"enabled": True},
    )
    # Named alone: its parts come with it, and the one that keeps answers is known to be among them.
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, models=("sort",))
    log = repository.with_name("cached.log")
    with log.open("wb") as sink, TritonServer(repository, options, log_sink=sink) as running:
        yield running


def ask(server: TritonServer, texts: Sequence[str], *outputs: str) -> dict[str, Any]:
    body = {
        "inputs": [{"name": "text", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}],
        "outputs": [{"name": name} for name in outputs],
    }
    answer = httpx.post(f"{server.http_url}/v2/models/sort/infer", json=body, timeout=60, trust_env=False)
    answer.raise_for_status()
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def count(server: TritonServer, metric: str) -> int:
    series = f'{metric}{{model="sort_cached",version="1"}} '
    lines = httpx.get(server.metrics_url, timeout=60, trust_env=False).text.splitlines()
    return next(int(line.removeprefix(series)) for line in lines if line.startswith(series))


def hits(server: TritonServer) -> int:
    return count(server, "nv_cache_num_hits_per_model")


def test_each_gets_the_outputs_it_asks_for_whatever_was_asked_before(server: TritonServer) -> None:
    before = hits(server)
    first = ask(server, ["which outputs"], "token_count")
    assert list(first) == ["token_count"]
    whole = ask(server, ["which outputs"])
    assert set(whole) == {"label", "score", "scores", "token_count"}
    assert ask(server, ["which outputs"], "label") == {"label": whole["label"]}
    assert ask(server, ["which outputs"], "scores", "score").keys() == {"scores", "score"}
    assert hits(server) == before + 3
    assert ask(server, ["other outputs"], "scores") != ask(server, ["which outputs"], "scores")


def test_what_the_alerts_on_the_cache_read_is_counted(server: TritonServer) -> None:
    metrics = ("nv_inference_request_success", "nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model")
    before = [count(server, metric) for metric in metrics]
    for _ in range(2):
        ask(server, ["asked twice"])
    assert [count(server, metric) for metric in metrics] == [before[0] + 2, before[1] + 1, before[2] + 1]


def test_the_client_library_is_served_from_it(server: TritonServer) -> None:
    with Client(server.grpc_url, "sort") as client:
        computed, before = client.classify(TEXTS), hits(server)
        kept = client.classify(TEXTS)
    assert hits(server) == before + 1
    assert kept.predictions == computed.predictions


def test_tokens_are_counted_as_the_model_reads_them(server: TritonServer, model: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    expected = [len(tokenizer(text, truncation=True, max_length=MAX_LENGTH).input_ids) for text in TEXTS]
    assert expected[2] == MAX_LENGTH
    assert ask(server, TEXTS, "token_count") == {"token_count": expected}
    assert ask(server, TEXTS[:1], "token_count") == {"token_count": expected[:1]}
